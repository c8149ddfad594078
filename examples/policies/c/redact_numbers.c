/* Redacts what looks like a payment card number: 13 to 19 digits in a row become stars, the last four stay.
 * Needs grants = ["rewrite"]. */
#include "arqon_host_v1.h"

ARQON_POLICY

#define MAX 49152
static char body[MAX];

static int is_digit(char byte) { return byte >= '0' && byte <= '9'; }

/* Stars out card numbers; says whether there were any. */
static int redact(char *bytes, int32_t len) {
    int found = 0;
    for (int32_t start = 0; start < len;) {
        int32_t end = start;
        while (end < len && is_digit(bytes[end])) end++;
        if (end - start >= 13 && end - start <= 19) {
            for (int32_t at = start; at < end - 4; at++) bytes[at] = '*';
            found = 1;
        }
        start = end + 1;
    }
    return found;
}

ARQON_EXPORT("on_request") int32_t on_request(void) {
    int32_t len = host_payload_len();
    if (len < 0 || len > MAX) host_reject(413, ARQON_STR("only 48 KiB can be looked through"));
    if (host_get_payload(0, body, len) != len) return 1;
    if (!redact(body, len)) return 0;
    return host_set_payload(body, len) != 0;
}
