//! Layers that only an edge needs: what a client may not say, who the client is, and how much it may ask for.

pub mod hop;
#[cfg(feature = "jwt")]
#[cfg_attr(docsrs, doc(cfg(feature = "jwt")))]
pub mod jwt;
pub mod limit;
pub mod peers;
pub mod reserved;
pub mod single;
