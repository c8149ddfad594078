/* The host functions of arqon_host_v1.
 *
 * A result of 0 or more is the value's full length; bytes are written only if they fit, so a buffer of length 0 asks for
 * the length. A pointer out of bounds ends the call and refuses the request. */
#ifndef ARQON_HOST_V1_H
#define ARQON_HOST_V1_H

#include <stddef.h>
#include <stdint.h>

#define ARQON_ABSENT (-1)       /* no such header, claim or property value */
#define ARQON_BAD_ARGUMENT (-2) /* no header name, no header value, no such property */
#define ARQON_UNAVAILABLE (-3)  /* not in this phase, or not granted */
#define ARQON_OVER_LIMIT (-4)   /* too many edits, too many bytes */

enum arqon_level { ARQON_ERROR, ARQON_WARN, ARQON_INFO, ARQON_DEBUG, ARQON_TRACE };

#define ARQON_IMPORT(name) __attribute__((import_module("arqon_host_v1"), import_name(name)))
#define ARQON_EXPORT(name) __attribute__((export_name(name)))

ARQON_IMPORT("host_get_header") int32_t host_get_header(const char *name, size_t name_len, void *buf, size_t buf_len);
ARQON_IMPORT("host_get_claim") int32_t host_get_claim(const char *key, size_t key_len, void *buf, size_t buf_len);
ARQON_IMPORT("host_get_property") int32_t host_get_property(const char *key, size_t key_len, void *buf, size_t buf_len);
ARQON_IMPORT("host_get_config") int32_t host_get_config(void *buf, size_t buf_len);
ARQON_IMPORT("host_payload_len") int32_t host_payload_len(void);
ARQON_IMPORT("host_get_payload") int32_t host_get_payload(size_t offset, void *buf, size_t buf_len);
ARQON_IMPORT("host_add_header") int32_t host_add_header(const char *name, size_t name_len, const void *value, size_t value_len);
ARQON_IMPORT("host_set_header") int32_t host_set_header(const char *name, size_t name_len, const void *value, size_t value_len);
ARQON_IMPORT("host_remove_header") int32_t host_remove_header(const char *name, size_t name_len);
ARQON_IMPORT("host_set_payload") int32_t host_set_payload(const void *payload, size_t payload_len);
ARQON_IMPORT("host_log") void host_log(int32_t level, const char *message, size_t message_len);
ARQON_IMPORT("host_reject") _Noreturn void host_reject(int32_t code, const char *reason, size_t reason_len);

/* Pointer and length of a string literal. */
#define ARQON_STR(text) (text), (sizeof(text) - 1)

/* Once in every policy: says which ABI it was made for. */
#define ARQON_POLICY ARQON_EXPORT("arqon_abi_v1") int32_t arqon_abi_v1(void) { return 1; }

#endif
