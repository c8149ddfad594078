/* Limits the body by content type. `config` has a line each: `application/json 4096`; `*` is everything else. */
#include "arqon_host_v1.h"

ARQON_POLICY

struct text {
    const char *bytes;
    int32_t len;
};

static char lower(char byte) { return byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte; }

static int same(struct text left, struct text right) {
    if (left.len != right.len) return 0;
    for (int32_t at = 0; at < left.len; at++)
        if (lower(left.bytes[at]) != lower(right.bytes[at])) return 0;
    return 1;
}

/* Takes one line off `lines`: a media type and a limit. 1, or 0 at the end, or -1 if the line is neither. */
static int next(struct text *lines, struct text *media_type, int32_t *limit) {
    int32_t at = 0;
    if (lines->len == 0) return 0;
    while (at < lines->len && lines->bytes[at] != ' ' && lines->bytes[at] != '\n') at++;
    *media_type = (struct text){lines->bytes, at};
    if (at == 0 || at == lines->len || lines->bytes[at] != ' ') return -1;
    int32_t first = ++at;
    for (*limit = 0; at < lines->len && lines->bytes[at] != '\n'; at++) {
        if (lines->bytes[at] < '0' || lines->bytes[at] > '9' || *limit > 100000000) return -1;
        *limit = *limit * 10 + (lines->bytes[at] - '0');
    }
    if (at == first) return -1;
    if (at < lines->len) at++;
    *lines = (struct text){lines->bytes + at, lines->len - at};
    return 1;
}

ARQON_EXPORT("on_configure") int32_t on_configure(void) {
    char config[1024];
    struct text media_type, lines = {config, host_get_config(config, sizeof config)};
    int32_t limit;
    int found = lines.len < 0 || lines.len > (int32_t)sizeof config ? -1 : 1;
    while (found > 0) found = next(&lines, &media_type, &limit);
    if (found < 0) host_reject(400, ARQON_STR("write lines of a media type and a number of bytes"));
    return 0;
}

ARQON_EXPORT("on_request") int32_t on_request(void) {
    char config[1024], value[128];
    struct text known, lines = {config, host_get_config(config, sizeof config)};
    struct text sent = {value, host_get_property(ARQON_STR("content_type"), value, sizeof value)};
    if (sent.len > (int32_t)sizeof value) host_reject(415, ARQON_STR("the content type cannot be read"));
    int32_t limit, allowed = -1, len = 0;
    while (len < sent.len && value[len] != ';' && value[len] != ' ') len++;
    sent.len = len;
    for (int other = 0; other < 2 && allowed < 0; other++) {
        struct text left = lines, wanted = other ? (struct text){"*", 1} : sent;
        while (allowed < 0 && next(&left, &known, &limit) > 0)
            if (same(known, wanted)) allowed = limit;
    }
    if (allowed >= 0 && host_payload_len() > allowed)
        host_reject(413, ARQON_STR("the body is too large for its content type"));
    return 0;
}
