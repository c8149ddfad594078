;; Redacts what looks like a payment card number: 13 to 19 digits in a row become stars, the last four stay.
;; Needs grants = ["rewrite"].
(module
  (import "arqon_host_v1" "host_payload_len" (func $payload_len (result i32)))
  (import "arqon_host_v1" "host_get_payload" (func $get_payload (param i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_set_payload" (func $set_payload (param i32 i32) (result i32)))
  (import "arqon_host_v1" "host_reject" (func $reject (param i32 i32 i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "only 60 KB can be looked through")
  ;; stars from $from to $to
  (func $stars (param $from i32) (param $to i32)
    (loop $next
      (if (i32.lt_u (local.get $from) (local.get $to))
        (then
          (i32.store8 (local.get $from) (i32.const 0x2a))
          (local.set $from (i32.add (local.get $from) (i32.const 1)))
          (br $next)))))
  ;; the end of the digits that begin at $at
  (func $digits (param $at i32) (param $end i32) (result i32)
    (loop $next
      (if (i32.lt_u (local.get $at) (local.get $end))
        (then
          (if (i32.lt_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 0x30)) (i32.const 10))
            (then
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (br $next))))))
    (local.get $at))
  (func (export "on_request") (result i32)
    (local $at i32) (local $end i32) (local $stop i32) (local $found i32)
    (local.set $end (call $payload_len))
    (if (i32.gt_u (local.get $end) (i32.const 60000))
      (then (call $reject (i32.const 413) (i32.const 0) (i32.const 32))))
    (if (i32.ne (call $get_payload (i32.const 0) (i32.const 1024) (local.get $end)) (local.get $end))
      (then (return (i32.const 1))))
    (local.set $at (i32.const 1024))
    (local.set $end (i32.add (local.get $end) (i32.const 1024)))
    (loop $next
      (if (i32.lt_u (local.get $at) (local.get $end))
        (then
          (local.set $stop (call $digits (local.get $at) (local.get $end)))
          ;; 13 to 19 of them
          (if (i32.lt_u (i32.sub (i32.sub (local.get $stop) (local.get $at)) (i32.const 13)) (i32.const 7))
            (then
              (call $stars (local.get $at) (i32.sub (local.get $stop) (i32.const 4)))
              (local.set $found (i32.const 1))))
          (local.set $at (i32.add (local.get $stop) (i32.const 1)))
          (br $next))))
    (if (local.get $found)
      (then (return (call $set_payload (i32.const 1024) (i32.sub (local.get $end) (i32.const 1024))))))
    (i32.const 0)))
