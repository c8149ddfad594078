/* Lets in who has the verified claim `role` = `admin`; everyone else gets 403 with a reason. */
#include "arqon_host_v1.h"

ARQON_POLICY

static int same(const char *left, const char *right, int32_t len) {
    for (int32_t at = 0; at < len; at++)
        if (left[at] != right[at]) return 0;
    return 1;
}

ARQON_EXPORT("on_request") int32_t on_request(void) {
    char role[16];
    int32_t len = host_get_claim(ARQON_STR("role"), role, sizeof role);
    if (len == 5 && same(role, "admin", 5)) return 0;
    host_log(ARQON_INFO, ARQON_STR("refused: no admin"));
    host_reject(403, ARQON_STR("only for administrators"));
}
