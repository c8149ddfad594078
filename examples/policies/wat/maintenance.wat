;; Maintenance switch: while `config` starts with `on`, everything is answered 503. Swap the configuration to end it.
(module
  (import "arqon_host_v1" "host_get_config" (func $get_config (param i32 i32) (result i32)))
  (import "arqon_host_v1" "host_reject" (func $reject (param i32 i32 i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "down for maintenance")
  (func (export "on_request") (result i32)
    (drop (call $get_config (i32.const 64) (i32.const 1024)))
    ;; "on" as a little-endian 16-bit number
    (if (i32.eq (i32.load16_u (i32.const 64)) (i32.const 0x6e6f))
      (then (call $reject (i32.const 503) (i32.const 0) (i32.const 20))))
    (i32.const 0)))
