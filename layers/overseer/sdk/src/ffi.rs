//! The imports of `arqon_host_v1`, each behind a safe function.
//!
//! All of them take pointers into this module's own memory together with the length of the slice they came from, and
//! the host checks both. So every call here is sound for the one reason given at [`call`].

mod import {
    #[link(wasm_import_module = "arqon_host_v1")]
    extern "C" {
        pub(super) fn host_get_header(name: *const u8, name_len: usize, buf: *mut u8, buf_len: usize) -> i32;
        pub(super) fn host_get_claim(key: *const u8, key_len: usize, buf: *mut u8, buf_len: usize) -> i32;
        pub(super) fn host_get_property(key: *const u8, key_len: usize, buf: *mut u8, buf_len: usize) -> i32;
        pub(super) fn host_get_config(buf: *mut u8, buf_len: usize) -> i32;
        pub(super) fn host_payload_len() -> i32;
        pub(super) fn host_get_payload(offset: usize, buf: *mut u8, buf_len: usize) -> i32;
        pub(super) fn host_add_header(
            name: *const u8,
            name_len: usize,
            value: *const u8,
            value_len: usize,
        ) -> i32;
        pub(super) fn host_set_header(
            name: *const u8,
            name_len: usize,
            value: *const u8,
            value_len: usize,
        ) -> i32;
        pub(super) fn host_remove_header(name: *const u8, name_len: usize) -> i32;
        pub(super) fn host_set_payload(payload: *const u8, payload_len: usize) -> i32;
        pub(super) fn host_log(level: i32, message: *const u8, message_len: usize);
        pub(super) fn host_reject(code: i32, reason: *const u8, reason_len: usize);
    }
}

/// Calls an import.
macro_rules! call {
    ($name:ident($($argument:expr),*)) => {
        // SAFETY: the host reads and writes only inside the slices whose pointer and length it is given, while the call
        // lasts; they are borrowed for that long, mutably where it writes.
        unsafe { import::$name($($argument),*) }
    };
}

pub(crate) fn get_header(name: &[u8], buffer: &mut [u8]) -> i32 {
    call!(host_get_header(
        name.as_ptr(),
        name.len(),
        buffer.as_mut_ptr(),
        buffer.len()
    ))
}

pub(crate) fn get_claim(key: &[u8], buffer: &mut [u8]) -> i32 {
    call!(host_get_claim(
        key.as_ptr(),
        key.len(),
        buffer.as_mut_ptr(),
        buffer.len()
    ))
}

pub(crate) fn get_property(key: &[u8], buffer: &mut [u8]) -> i32 {
    call!(host_get_property(
        key.as_ptr(),
        key.len(),
        buffer.as_mut_ptr(),
        buffer.len()
    ))
}

pub(crate) fn get_config(buffer: &mut [u8]) -> i32 {
    call!(host_get_config(buffer.as_mut_ptr(), buffer.len()))
}

pub(crate) fn payload_len() -> i32 {
    call!(host_payload_len())
}

pub(crate) fn get_payload(offset: usize, buffer: &mut [u8]) -> i32 {
    call!(host_get_payload(offset, buffer.as_mut_ptr(), buffer.len()))
}

pub(crate) fn add_header(name: &[u8], value: &[u8]) -> i32 {
    call!(host_add_header(
        name.as_ptr(),
        name.len(),
        value.as_ptr(),
        value.len()
    ))
}

pub(crate) fn set_header(name: &[u8], value: &[u8]) -> i32 {
    call!(host_set_header(
        name.as_ptr(),
        name.len(),
        value.as_ptr(),
        value.len()
    ))
}

pub(crate) fn remove_header(name: &[u8]) -> i32 {
    call!(host_remove_header(name.as_ptr(), name.len()))
}

pub(crate) fn set_payload(payload: &[u8]) -> i32 {
    call!(host_set_payload(payload.as_ptr(), payload.len()))
}

pub(crate) fn log(level: i32, message: &[u8]) {
    call!(host_log(level, message.as_ptr(), message.len()))
}

pub(crate) fn reject(code: i32, reason: &[u8]) -> ! {
    call!(host_reject(code, reason.as_ptr(), reason.len()));
    // The host ended the guest: nothing comes after the call.
    core::arch::wasm32::unreachable()
}
