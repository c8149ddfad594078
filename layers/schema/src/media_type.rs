//! Which encoding a request says its payload has.

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use crate::{admission::SCHEMA_HEADER, config::Encoding};

/// What the headers tell, read in one go: looking up three names by their hashes takes longer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Told<'a> {
    /// The first `content-type`.
    media_type: Option<&'a HeaderValue>,
    /// There is another one.
    several: bool,
    /// The bytes are not the payload as it is.
    encoded: bool,
    /// A client says of itself that it was checked.
    pub(crate) forged: bool,
}

impl<'a> Told<'a> {
    #[inline]
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let mut told = Self::default();
        for (name, value) in headers {
            if *name == CONTENT_TYPE {
                told.several |= told.media_type.is_some();
                told.media_type = told.media_type.or(Some(value));
            } else if *name == CONTENT_ENCODING {
                told.encoded |= !value.as_bytes().eq_ignore_ascii_case(b"identity");
            } else if *name == SCHEMA_HEADER {
                told.forged = true;
            }
        }
        told
    }
}

/// The encoding of the payload, by the media type or else by the mapping; missing both, binary.
///
/// # Errors
///
/// A sentence for the 415: compressed, gRPC, contradictory or neither Protobuf nor JSON.
#[inline]
pub(crate) fn encoding(told: Told<'_>, mapped: Option<Encoding>) -> Result<Encoding, &'static str> {
    if told.encoded {
        return Err("a payload with a content-encoding cannot be checked: send it uncompressed");
    }
    let Some(media_type) = told.media_type else {
        return Ok(mapped.unwrap_or(Encoding::Proto));
    };
    if told.several {
        return Err("more than one content-type");
    }
    // As most write it.
    if media_type.as_bytes() == b"application/x-protobuf" && mapped != Some(Encoding::Json) {
        return Ok(Encoding::Proto);
    }
    of_text(media_type, mapped)
}

fn of_text(media_type: &HeaderValue, mapped: Option<Encoding>) -> Result<Encoding, &'static str> {
    let Ok(text) = media_type.to_str() else {
        return Err("the content-type is not text");
    };
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let essence = essence.trim();
    if starts_with(essence, "application/grpc") {
        return Err("gRPC framing cannot be checked: send the bare message as application/x-protobuf");
    }
    let protobuf = [
        "application/x-protobuf",
        "application/protobuf",
        "application/vnd.google.protobuf",
    ];
    let named = if protobuf.iter().any(|name| essence.eq_ignore_ascii_case(name)) {
        Some(Encoding::Proto)
    } else if essence.eq_ignore_ascii_case("application/json") || ends_with(essence, "+json") {
        if !is_utf8(parameters) {
            return Err("JSON must be UTF-8");
        }
        Some(Encoding::Json)
    } else {
        None
    };
    match (named, mapped) {
        (Some(Encoding::Json), Some(Encoding::Proto)) => {
            Err("this subject takes binary Protobuf only: send application/x-protobuf")
        }
        (Some(Encoding::Proto), Some(Encoding::Json)) => {
            Err("this subject takes JSON only: send application/json")
        }
        (Some(encoding), _) => Ok(encoding),
        // Bytes, it says: which, the mapping knows.
        (None, Some(encoding)) if essence.eq_ignore_ascii_case("application/octet-stream") => Ok(encoding),
        (None, _) => Err("send application/x-protobuf or application/json"),
    }
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn ends_with(text: &str, suffix: &str) -> bool {
    text.len()
        .checked_sub(suffix.len())
        .and_then(|at| text.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// The charset, if there is one, is UTF-8.
fn is_utf8(parameters: &str) -> bool {
    parameters
        .split(';')
        .all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                let value = value.trim().trim_matches('"');
                value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
            }
            _ => true,
        })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::Told;
    use crate::config::Encoding;

    fn encoding(headers: &HeaderMap, mapped: Option<Encoding>) -> Result<Encoding, &'static str> {
        super::encoding(Told::of(headers), mapped)
    }

    fn of(content_type: &'static str, mapped: Option<Encoding>) -> Result<Encoding, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        encoding(&headers, mapped)
    }

    #[test]
    fn the_media_type_names_the_encoding() {
        for name in [
            "application/x-protobuf",
            "Application/Protobuf; messageType=\"a.B\"",
            "application/vnd.google.protobuf",
        ] {
            assert_eq!(of(name, None), Ok(Encoding::Proto), "{name}");
        }
        for name in [
            "application/json",
            "APPLICATION/JSON; charset=UTF-8",
            "application/cloudevents+json",
        ] {
            assert_eq!(of(name, None), Ok(Encoding::Json), "{name}");
        }
        assert_eq!(encoding(&HeaderMap::new(), None), Ok(Encoding::Proto));
    }

    #[test]
    fn what_cannot_be_checked_is_refused_in_words() {
        for name in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc-web+json",
            "APPLICATION/GRPC",
        ] {
            assert!(
                of(name, Some(Encoding::Proto)).is_err_and(|text| text.contains("gRPC")),
                "{name}"
            );
        }
        for name in [
            "text/plain",
            "multipart/form-data; boundary=x",
            "",
            "json",
            "application/json; charset=latin1",
        ] {
            assert!(of(name, None).is_err(), "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(encoding(&headers, None).is_err());
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
        assert!(encoding(&headers, None).is_ok());
        let appended = headers.try_append(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert!(matches!(appended, Ok(true)));
        assert!(encoding(&headers, None).is_err());
        let mut two = HeaderMap::new();
        for value in ["application/x-protobuf", "application/x-protobuf"] {
            two.try_append(header::CONTENT_TYPE, HeaderValue::from_static(value))
                .expect("room");
        }
        assert_eq!(encoding(&two, None), Err("more than one content-type"));
    }

    #[test]
    fn the_mapping_decides_where_the_media_type_does_not_and_refuses_another() {
        assert_eq!(
            of("application/octet-stream", Some(Encoding::Json)),
            Ok(Encoding::Json)
        );
        assert_eq!(
            encoding(&HeaderMap::new(), Some(Encoding::Json)),
            Ok(Encoding::Json)
        );
        for encoding in [Encoding::Json, Encoding::Proto] {
            for name in [
                "text/plain",
                "text/html",
                "multipart/form-data; boundary=x",
                "application/connect+proto",
                "image/png",
                "",
            ] {
                assert!(of(name, Some(encoding)).is_err(), "{name}");
            }
        }
        assert!(of("application/json", Some(Encoding::Proto)).is_err());
        assert!(of("application/x-protobuf", Some(Encoding::Json)).is_err());
    }
}
