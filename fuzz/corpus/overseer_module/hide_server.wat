;; Removes `server` and `x-powered-by` from every response.
(module
  (import "arqon_host_v1" "host_remove_header" (func $remove_header (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "server")
  (data (i32.const 16) "x-powered-by")
  (func (export "on_response") (result i32)
    (i32.or
      (call $remove_header (i32.const 0) (i32.const 6))
      (call $remove_header (i32.const 16) (i32.const 12)))))
