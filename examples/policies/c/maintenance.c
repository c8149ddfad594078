/* Maintenance switch: while `config` is `on`, everything but reading is answered 503. */
#include "arqon_host_v1.h"

ARQON_POLICY

static int is(const char *bytes, int32_t len, const char *text, int32_t text_len) {
    if (len != text_len) return 0;
    for (int32_t at = 0; at < len; at++)
        if (bytes[at] != text[at]) return 0;
    return 1;
}

ARQON_EXPORT("on_configure") int32_t on_configure(void) {
    char config[8];
    int32_t len = host_get_config(config, sizeof config);
    if (!is(config, len, ARQON_STR("on")) && !is(config, len, ARQON_STR("off")))
        host_reject(400, ARQON_STR("write \"on\" or \"off\""));
    return 0;
}

ARQON_EXPORT("on_request") int32_t on_request(void) {
    char config[8], method[8];
    int32_t len = host_get_config(config, sizeof config);
    if (is(config, len, ARQON_STR("off"))) return 0;
    len = host_get_property(ARQON_STR("method"), method, sizeof method);
    if (is(method, len, ARQON_STR("GET")) || is(method, len, ARQON_STR("HEAD"))) return 0;
    host_reject(503, ARQON_STR("down for maintenance"));
}
