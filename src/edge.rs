//! Layers that only an edge needs: what a client may not say, and who the client is.

pub mod reserved;
