//! Limits the body by content type. `config` has a line each: `application/json 4096`; `*` is everything else.
#![no_std]

use arqon_policy::{config_text, payload_len, property_text, Verdict};

fn on_configure() -> Verdict {
    match config_text(&mut [0; 1024]) {
        Ok(lines) if lines.lines().all(|line| parse(line).is_some()) => Verdict::Allow,
        _ => Verdict::reject(400, "write lines of a media type and a number of bytes"),
    }
}

fn on_request() -> Verdict {
    let (mut config, mut media_type) = ([0; 1024], [0; 128]);
    let config = config_text(&mut config).unwrap_or_default();
    let media_type = match property_text("content_type", &mut media_type) {
        Ok(media_type) => media_type.unwrap_or_default(),
        Err(_) => return Verdict::reject(415, "the content type cannot be read"),
    };
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    let lines = || config.lines().filter_map(parse);
    let limit = lines()
        .find(|(known, _)| known.eq_ignore_ascii_case(media_type))
        .or_else(|| lines().find(|(known, _)| *known == "*"));
    match (limit, payload_len()) {
        (None, _) => Verdict::Allow,
        (Some((_, limit)), Ok(len)) if len <= limit => Verdict::Allow,
        _ => Verdict::reject(413, "the body is too large for its content type"),
    }
}

fn parse(line: &str) -> Option<(&str, usize)> {
    let mut words = line.split_ascii_whitespace();
    let limit = (words.next()?, words.next()?.parse().ok()?);
    words.next().is_none().then(|| limit)
}

arqon_policy::export!(on_request = on_request, on_configure = on_configure);
