//! What a request says of where it ends and whom it is for: said twice, or in a way that others read differently, it is refused.

use std::net::Ipv6Addr;

use arqon::{Code, Problem};
use http::{
    HeaderMap, Version,
    header::{HOST, TRANSFER_ENCODING},
};

/// Whether it is said once and plainly: at most one `Host`, which is a host and perhaps a port (RFC 9112, 3.2), and where there is
/// a `Transfer-Encoding`, one line that is `chunked` (6.1): hyper takes off one coding, and another would be taken for payload.
///
/// # Errors
/// `frame.invalid`, naming the header.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |detail| Err(Problem::new(Code::FrameInvalid, detail));
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return refused("the header host may stand only once"),
        (Some(host), None) if !is_host(host.as_bytes()) => {
            return refused("the header host is a host, and perhaps a port");
        }
        (None, None) if version == Version::HTTP_11 => return refused("HTTP/1.1 needs the header host"),
        _ => {}
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => refused("the only transfer coding is chunked, once"),
    }
}

/// `uri-host [":" port]` of RFC 3986: a name (which may be empty) or an IPv4 address, or an IPv6 address in brackets. No user.
pub(super) fn is_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let rest = match host.strip_prefix('[') {
        Some(address) => match address.split_once(']') {
            Some((address, rest)) if address.parse::<Ipv6Addr>().is_ok() => rest,
            _ => return false,
        },
        None => {
            let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
            if !is_name(name.as_bytes()) {
                return false;
            }
            rest
        }
    };
    rest.is_empty()
        || rest
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Unreserved characters, sub-delimiters and percent-encoded bytes.
fn is_name(name: &[u8]) -> bool {
    let mut rest = name.iter();
    while let Some(byte) = rest.next() {
        let fits = match byte {
            b'%' => {
                let mut digit = || rest.next().is_some_and(u8::is_ascii_hexdigit);
                digit() && digit()
            }
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn checked(version: Version, lines: &[(HeaderName, &[u8])]) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value).expect("a value");
            headers.try_append(name, value).expect("room");
        }
        check(version, &headers).map_err(|problem| {
            assert_eq!(problem.code, Code::FrameInvalid);
            problem.detail.into_owned()
        })
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        let good: [&[u8]; 12] = [
            b"x",
            b"",
            b"a-b_c.example:8080",
            b"x:",
            b":1",
            b"127.0.0.1:1",
            b"[::1]",
            b"[::1]:80",
            b"[::ffff:1.2.3.4]:",
            b"a%2Fb",
            b"a!$&'()*+,;=~",
            b"xn--a.example.",
        ];
        for host in good {
            assert_eq!(checked(Version::HTTP_11, &[(HOST, host)]), Ok(()), "{host:?}");
        }
        let bad: [&[u8]; 20] = [
            b"a b@c/",
            b"a b",
            b"a@b",
            b"a:b@c",
            b"a/b",
            b"a?b",
            b"a#b",
            b"a\\b",
            b"a:1:2",
            b"a:x",
            b"a:-1",
            b"a: 1",
            b"[::1",
            b"[]",
            b"[::1]x",
            b"::1",
            b"a%2",
            b"a%zz",
            b"caf\xc3\xa9",
            b"\xff",
        ];
        for host in bad {
            assert!(checked(Version::HTTP_11, &[(HOST, host)]).is_err(), "{host:?}");
        }
        assert!(checked(Version::HTTP_11, &[(HOST, b"x"), (HOST, b"x")]).is_err());
        assert!(checked(Version::HTTP_11, &[]).is_err());
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(checked(version, &[]), Ok(()));
        }
    }

    #[test]
    fn the_only_transfer_coding_is_chunked_once() {
        let coded = |lines: &[&[u8]]| {
            let mut all: Vec<(_, &[u8])> = vec![(HOST, b"x")];
            all.extend(lines.iter().map(|line| (TRANSFER_ENCODING, *line)));
            checked(Version::HTTP_11, &all)
        };
        let good: [&[&[u8]]; 4] = [&[], &[b"chunked"], &[b"CHUNKED"], &[b" chunked\t"]];
        for lines in good {
            assert_eq!(coded(lines), Ok(()), "{lines:?}");
        }
        let bad: [&[&[u8]]; 7] = [
            &[b"gzip, chunked"],
            &[b"chunked, chunked"],
            &[b"chunked", b"chunked"],
            &[b"gzip", b"chunked"],
            &[b"chunked,"],
            &[b"identity"],
            &[b""],
        ];
        for lines in bad {
            let said = coded(lines).expect_err("refused");
            assert!(said.contains("transfer coding"), "{said}");
        }
    }
}
