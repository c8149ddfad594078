//! Where a client is: the peer's address, or behind proxies of ours what they say of it.
//!
//! [`TrustedPeers`] holds the networks of those proxies. Only `X-Forwarded-For` counts, and only as far as it was written
//! by a trusted peer: from its right end, address by address, to the first one that is not trusted. What a client wrote
//! further left is never looked at. (`Forwarded` is not read: where a proxy appends one of both headers, a client could
//! write the other.)
//!
//! ```
//! use arqon::edge::peers::TrustedPeers;
//!
//! let ours = TrustedPeers::parse(&["10.0.0.0/8"]).map_err(|(_, error)| error)?;
//! let mut headers = http::HeaderMap::new();
//! headers.insert("x-forwarded-for", "1.2.3.4, 203.0.113.7, 10.0.0.9".parse()?);
//!
//! assert_eq!(ours.client("10.0.0.1:5000".parse()?, &headers).ip().to_string(), "203.0.113.7");
//! // A stranger may write what it likes.
//! assert_eq!(ours.client("198.51.100.1:5000".parse()?, &headers).ip().to_string(), "198.51.100.1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// How many proxies a request may have passed: what stands further left is not looked at.
const HOPS_MAX: usize = 32;

/// On a request that a trusted peer sent: the shadow marker stays on it. Only the edge inserts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromTrustedPeer;

/// Networks whose proxies are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedPeers(Vec<Network>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl TrustedPeers {
    /// Reads networks such as `10.0.0.0/8` or `fd00::/8`, and single addresses.
    ///
    /// # Errors
    /// The first that is neither: its place in the list, and one sentence.
    pub fn parse(networks: &[impl AsRef<str>]) -> Result<Self, (usize, String)> {
        let read = networks.iter().enumerate();
        let read = read.map(|(at, text)| Network::parse(text.as_ref()).map_err(|error| (at, error)));
        read.collect::<Result<_, _>>().map(Self)
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` is one of ours.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// The client of a request that `peer` sent; its port is 0 where only an address is known.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let mut client = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if self.is_empty() {
            return peer;
        }
        let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        let mut hops = lines
            .into_iter()
            .rev()
            .flat_map(|line| line.to_str().unwrap_or("?").rsplit(','))
            .take(HOPS_MAX);
        while self.contains(client.ip()) {
            match hops.next().map(|hop| address(hop.trim())) {
                Some(Some(next)) => client = next,
                // Nothing more, or nothing that can be read: the last one that is known.
                _ => break,
            }
        }
        client
    }
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let ip = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    let found = ip.or_else(|_| text.parse()).ok()?;
    Some(SocketAddr::new(found.ip().to_canonical(), found.port()))
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let wrong = || format!("{text:?} is neither an address nor a network such as 10.0.0.0/8");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?,
            None => most,
        };
        let network = Self {
            address: masked(address, bits),
            bits,
        };
        if network.address != address {
            return Err(format!(
                "{text:?} has bits behind its prefix: did you mean {}/{bits}?",
                network.address
            ));
        }
        Ok(network)
    }

    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == self.address
    }
}

fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let ours = TrustedPeers::parse(&["10.0.0.0/8", "::1", "192.0.2.7"]).expect("networks");
        let mut headers = HeaderMap::new();
        for line in lines {
            headers
                .try_append(FORWARDED_FOR, HeaderValue::from_str(line).expect("a value"))
                .expect("room");
        }
        ours.client(peer.parse().expect("an address"), &headers)
            .to_string()
    }

    #[test]
    fn only_what_trusted_peers_wrote_counts() {
        for (peer, lines, expected) in [
            ("203.0.113.1:9", &["10.0.0.2"][..], "203.0.113.1:9"),
            ("10.0.0.1:9", &[], "10.0.0.1:9"),
            ("10.0.0.1:9", &["203.0.113.1"], "203.0.113.1:0"),
            ("10.0.0.1:9", &["6.6.6.6, 203.0.113.1:77"], "203.0.113.1:77"),
            (
                "10.0.0.1:9",
                &["6.6.6.6", "203.0.113.1, 10.2.2.2"],
                "203.0.113.1:0",
            ),
            ("10.0.0.1:9", &["10.3.3.3, 10.2.2.2"], "10.3.3.3:0"),
            ("10.0.0.1:9", &["203.0.113.1, unknown"], "10.0.0.1:9"),
            ("10.0.0.1:9", &["203.0.113.1, \u{e4}"], "10.0.0.1:9"),
            ("10.0.0.1:9", &[""], "10.0.0.1:9"),
            ("[::1]:9", &["[2001:db8::1]:80"], "[2001:db8::1]:80"),
            ("[::ffff:10.0.0.1]:9", &["2001:db8::1"], "[2001:db8::1]:0"),
            ("192.0.2.7:9", &["203.0.113.1"], "203.0.113.1:0"),
            ("192.0.2.8:9", &["203.0.113.1"], "192.0.2.8:9"),
        ] {
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn the_walk_is_bounded() {
        let mut hops = vec!["203.0.113.1"; 1];
        hops.extend(vec!["10.0.0.2"; HOPS_MAX]);
        assert_eq!(client("10.0.0.1:9", &[&hops.join(",")]), "10.0.0.2:0");
        hops.pop();
        assert_eq!(client("10.0.0.1:9", &[&hops.join(",")]), "203.0.113.1:0");
    }

    #[test]
    fn networks_are_read_strictly() {
        for good in ["0.0.0.0/0", "::/0", "10.1.2.3", "10.1.2.3/32", "fd00::/8"] {
            assert!(TrustedPeers::parse(&[good]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "fd00::/129",
            "localhost",
            "10.0.0/8",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(TrustedPeers::parse(&["::1", bad]).expect_err(bad).0, 1);
        }
        let all = TrustedPeers::parse(&["0.0.0.0/0"]).expect("a network");
        assert!(all.contains("1.2.3.4".parse().expect("v4")) && !all.contains("::1".parse().expect("v6")));
    }
}
