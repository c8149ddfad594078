//! The least a host can do with wasmtime itself: a pool, a prepared instance, fuel and epochs, one fresh instance a call.

use http::HeaderMap;
use wasmtime::{
    Caller, Config, Engine, InstanceAllocationStrategy, Linker, Memory, Module, PoolingAllocationConfig,
    Store,
};

use crate::guests::{BLOCK_ME, Incoming};

struct State {
    headers: HeaderMap,
    memory: Option<Memory>,
}

pub(crate) fn direct() -> impl FnMut(Incoming) {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(8)
        .total_memories(8)
        .total_tables(8)
        .max_memory_size(4 << 20)
        .linear_memory_keep_resident(128 << 10);
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, BLOCK_ME).unwrap();
    let mut linker = Linker::<State>::new(&engine);
    linker
        .func_wrap(
            "arqon_host_v1",
            "host_get_header",
            |mut caller: Caller<'_, State>, ptr: i32, len: i32, _: i32, _: i32| {
                let memory = caller.data().memory.unwrap();
                let (bytes, state) = memory.data_and_store_mut(&mut caller);
                let name = std::str::from_utf8(&bytes[ptr as usize..(ptr + len) as usize]).unwrap();
                state.headers.get(name).map_or(-1, |value| value.len() as i32)
            },
        )
        .unwrap();
    let pre = linker.instantiate_pre(&module).unwrap();
    let (memory, entry) = (
        module.get_export_index("memory").unwrap(),
        module.get_export_index("on_request").unwrap(),
    );
    move |request| {
        let headers = request.into_parts().0.headers;
        let mut store = Store::new(
            &engine,
            State {
                headers,
                memory: None,
            },
        );
        store.set_fuel(10_000_000).unwrap();
        store.set_epoch_deadline(6);
        let instance = pre.instantiate(&mut store).unwrap();
        let memory = instance
            .get_module_export(&mut store, &memory)
            .unwrap()
            .into_memory();
        store.data_mut().memory = memory;
        let entry = instance
            .get_module_export(&mut store, &entry)
            .unwrap()
            .into_func()
            .unwrap();
        let verdict = entry.typed::<(), i32>(&store).unwrap().call(&mut store, ());
        assert_eq!(verdict.unwrap(), 0);
    }
}
