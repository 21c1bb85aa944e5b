//! Baton's reading of ClientHellos against tables, against real clients' first messages, and against
//! rustls. Nothing here shares code with the crate but its public types.

mod document;
mod made;
mod malformed;
mod names;
mod real;
mod records;
mod rustls_agrees;
