;; Limits the body by content type: 4096 bytes of application/json, 1024 of everything else.
(module
  (import "arqon_host_v1" "host_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_payload_len" (func $payload_len (result i32)))
  (import "arqon_host_v1" "host_reject" (func $reject (param i32 i32 i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "content_type")
  (data (i32.const 16) "the body is too large for its content type")
  (data (i32.const 64) "application/json")
  ;; whether the value of `len` bytes at 128 is application/json, parameters aside; one that was too long was not written
  (func $is_json (param $len i32) (result i32)
    (if (i64.ne (i64.load (i32.const 128)) (i64.load (i32.const 64))) (then (return (i32.const 0))))
    (if (i64.ne (i64.load (i32.const 136)) (i64.load (i32.const 72))) (then (return (i32.const 0))))
    (if (i32.eq (local.get $len) (i32.const 16)) (then (return (i32.const 1))))
    (i32.or (i32.eq (i32.load8_u (i32.const 144)) (i32.const 0x3b))    ;; ;
            (i32.eq (i32.load8_u (i32.const 144)) (i32.const 0x20))))  ;; a blank
  (func (export "on_request") (result i32)
    (local $limit i32)
    (local.set $limit
      (select (i32.const 4096) (i32.const 1024)
        (call $is_json (call $get_property (i32.const 0) (i32.const 12) (i32.const 128) (i32.const 256)))))
    (if (i32.gt_s (call $payload_len) (local.get $limit))
      (then (call $reject (i32.const 413) (i32.const 16) (i32.const 42))))
    (i32.const 0)))
