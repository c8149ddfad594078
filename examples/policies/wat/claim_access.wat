;; Lets in who has the verified claim `role` = `admin`; everyone else gets 403 with a reason.
(module
  (import "arqon_host_v1" "host_get_claim" (func $get_claim (param i32 i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_reject" (func $reject (param i32 i32 i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "role")
  (data (i32.const 8) "only for administrators")
  (func (export "on_request") (result i32)
    ;; five bytes: "admi" as a little-endian number, and "n"
    (if (i32.eq (call $get_claim (i32.const 0) (i32.const 4) (i32.const 64) (i32.const 16)) (i32.const 5))
      (then
        (if (i32.and (i32.eq (i32.load (i32.const 64)) (i32.const 0x696d6461))
                     (i32.eq (i32.load8_u (i32.const 68)) (i32.const 0x6e)))
          (then (return (i32.const 0))))))
    (call $reject (i32.const 403) (i32.const 8) (i32.const 23))
    (i32.const 1)))
