//! The exports.

/// Exports functions of yours as the entry points of a policy, and the marker `arqon_abi_v1`.
///
/// Each takes nothing and returns a [`Verdict`](crate::Verdict). `on_request` runs for requests, `on_response` for
/// responses, `on_configure` when the module is loaded: refusing there refuses the load.
///
/// ```
/// use arqon_policy::{config_text, has_header, Verdict};
///
/// fn check() -> Verdict {
///     Verdict::allow_if(has_header("x-block-me") == Ok(false))
/// }
///
/// fn configured() -> Verdict {
///     Verdict::allow_if(config_text(&mut [0; 100]).is_ok())
/// }
///
/// arqon_policy::export!(on_request = check, on_configure = configured);
/// ```
#[macro_export]
macro_rules! export {
    ($($entry:ident = $function:path),+ $(,)?) => {
        const _: () = {
            #[cfg_attr(target_arch = "wasm32", export_name = "arqon_abi_v1")]
            extern "C" fn __arqon_abi_v1() -> i32 {
                1
            }
            // Elsewhere than in Wasm the functions are only type-checked: tests call yours.
            let _: extern "C" fn() -> i32 = __arqon_abi_v1;
            $($crate::export!(@entry $entry $function);)+
        };
    };
    (@entry on_request $function:path) => {
        $crate::export!(@function __arqon_on_request "on_request" $function);
    };
    (@entry on_response $function:path) => {
        $crate::export!(@function __arqon_on_response "on_response" $function);
    };
    (@entry on_configure $function:path) => {
        $crate::export!(@function __arqon_on_configure "on_configure" $function);
    };
    (@entry $other:ident $function:path) => {
        compile_error!("the entry points are on_request, on_response and on_configure");
    };
    (@function $name:ident $export:literal $function:path) => {
        #[cfg_attr(target_arch = "wasm32", export_name = $export)]
        extern "C" fn $name() -> i32 {
            $crate::Verdict::into_code($function())
        }
        let _: extern "C" fn() -> i32 = $name;
    };
}
