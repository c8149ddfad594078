//! Reading trace ids off headers, in place.

/// The trace id of a `traceparent` value (W3C Trace Context, 3.2), or `None` when the value does not hold.
#[inline]
pub(super) fn trace_id(value: &[u8]) -> Option<&[u8]> {
    const LEN: usize = 55; // vv-<32>-<16>-ff
    let (head, rest) = value.split_at_checked(LEN)?;
    let [v0, v1, b'-', id @ ..] = head else {
        return None;
    };
    let (id, tail) = id.split_first_chunk::<32>()?;
    let [b'-', tail @ ..] = tail else { return None };
    let (parent, flags) = tail.split_first_chunk::<16>()?;
    let [b'-', flags @ ..] = flags else { return None };
    let version = [*v0, *v1];
    // Without early exits these compile to a few vector instructions: most ids are valid.
    let lower = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(true, |all, b| all & matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |bytes: &[u8]| bytes.iter().fold(0, |any, b| any | (b ^ b'0')) != 0;
    // A version that we do not know may go on after a dash; ours ends here; ff is forbidden.
    let ends = rest.is_empty() || (version != *b"00" && rest[0] == b'-');
    let holds = ends
        && version != *b"ff"
        && lower(&version)
        && lower(id)
        && lower(parent)
        && lower(flags)
        && some(id)
        && some(parent);
    holds.then_some(id)
}

/// The trace id of a single `b3` value: `<trace>-<span>[-<sampled>[-<parent>]]`.
pub(super) fn b3_trace_id(value: &[u8]) -> Option<&[u8]> {
    let mut parts = value.split(|&b| b == b'-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let is_span = |id: &[u8]| id.len() == 16 && id.iter().all(u8::is_ascii_hexdigit);
    let sampled = parts
        .next()
        .is_none_or(|state| matches!(state, b"0" | b"1" | b"d"));
    let parent = parts.next().is_none_or(is_span);
    let ends = parts.next().is_none();
    (is_span(span) && sampled && parent && ends).then_some(())?;
    hex_id(trace)
}

/// A trace id of 16 or 32 hex digits that are not all zero (the B3 propagation format).
pub(super) fn hex_id(value: &[u8]) -> Option<&[u8]> {
    let holds = matches!(value.len(), 16 | 32)
        && value.iter().all(u8::is_ascii_hexdigit)
        && value.iter().any(|&b| b != b'0');
    holds.then_some(value)
}
