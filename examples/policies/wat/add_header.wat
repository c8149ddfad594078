;; Adds `x-edge: arqon` to every request. What a client sends under that name is dropped.
(module
  (import "arqon_host_v1" "host_add_header" (func $add_header (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "x-edge")
  (data (i32.const 16) "arqon")
  ;; 0 allows; an error code of the host is not 0 and denies.
  (func (export "on_request") (result i32)
    (call $add_header (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 5))))
