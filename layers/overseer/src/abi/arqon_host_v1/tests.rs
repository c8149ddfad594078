use super::*;

#[test]
fn every_function_of_the_table_is_linked_with_the_type_it_says() {
    let config = crate::OverseerConfig {
        shards: 1,
        ..crate::OverseerConfig::default()
    };
    let settings = config.parse().unwrap().settings;
    let engine = crate::engine::Engine::new(settings).unwrap();
    let shards = engine.pools(crate::engine::Reset::Cleared).unwrap();
    let linkers = link(shards).unwrap();
    let mut imports = String::new();
    for (name, params, results) in FUNCTIONS {
        let list = |word: &str, count: usize| {
            if count == 0 {
                String::new()
            } else {
                format!("({word}{})", " i32".repeat(count))
            }
        };
        imports += &format!(
            "(import \"{MODULE}\" \"{name}\" (func {} {}))",
            list("param", params),
            list("result", results)
        );
    }
    let wasm = wat::parse_str(format!("(module {imports})")).unwrap();
    let module = wasmtime::Module::new(&shards[0], wasm).unwrap();
    linkers[0].instantiate_pre(&module).unwrap();
}
