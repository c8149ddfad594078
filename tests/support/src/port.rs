//! A loopback port that stays the server's across a restart.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::{Ipv4Addr, TcpListener},
};

/// Below the range from which systems take the local ports of outgoing connections: a client that keeps
/// reconnecting to a stopped server there would in the end be connected to itself.
const PORTS: std::ops::Range<u64> = 20_000..32_000;
const TRIES: u32 = 64;

/// A random number; the standard library seeds its hash maps from the system's source of randomness.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A port of 127.0.0.1 that nobody listens on at the moment.
pub(crate) fn free_port() -> io::Result<u16> {
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let port = PORTS.start + random() % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("the range ends below 65,536");
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound_and_is_not_an_ephemeral_one() {
        let port = free_port().unwrap();
        assert!(PORTS.contains(&u64::from(port)));
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
