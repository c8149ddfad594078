/* Denies what carries X-Block-Me. */
#include "arqon_host_v1.h"

ARQON_POLICY

ARQON_EXPORT("on_request") int32_t on_request(void) {
    /* -1: it is not there. Every other error is no answer, and denies too. */
    return host_get_header(ARQON_STR("x-block-me"), NULL, 0) != -1;
}
