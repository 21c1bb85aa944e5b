//! How Baton's programs speak to a terminal: `baton` itself, and `baton-demo`.

pub mod exit;
pub mod output;
