use super::*;
use crate::PolicyConfig;

const ALLOWS: &str = r#"(module
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (func (export "on_request") (result i32) (i32.const 0)))"#;

#[tokio::test]
async fn no_request_pays_for_the_drop_of_a_candidate_or_of_a_former_module() {
    let config = OverseerConfig {
        shards: 1,
        standby: 1,
        concurrency: 1,
        deadline: Some("5s".to_owned()),
        ..OverseerConfig::of([PolicyConfig::from_module("p", ALLOWS)])
    };
    let shared = Arc::new(Shared::new(&config, Arc::new(|_| ())).unwrap());
    let handle = OverseerHandle::new(Arc::clone(&shared));
    handle.candidate("p", ALLOWS.into()).await.unwrap();
    let module = |of: fn(&Policy) -> Option<&Arc<crate::verify::Loaded>>| {
        Arc::clone(of(&shared.snapshot().unwrap().policies[0]).unwrap())
    };
    // Beside this test, somebody off the request path holds on to it until nobody else does.
    let candidate = module(|policy| policy.candidate.as_ref().map(|candidate| &candidate.loaded));
    handle.rollback("p").unwrap();
    assert!(Arc::strong_count(&candidate) >= 2);

    let active = module(|policy| policy.loaded.as_ref());
    for _ in 0..2 {
        handle.replace("p", ALLOWS.into()).await.unwrap();
    }
    assert!(Arc::strong_count(&active) >= 2);
}
