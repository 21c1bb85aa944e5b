//! The file that `baton init` writes.

use toml::Value;

use crate::Cluster;

impl Cluster {
    /// The text of a commented starting file, for a cluster of this name with this secret. The caller
    /// draws the secret at random (32 characters at least). With a good name and secret,
    /// [`Cluster::parse`] takes the text, and has no warnings; with others it says what is wrong.
    pub fn fresh(name: &str, secret: &str) -> String {
        let quoted = |text: &str| Value::String(text.to_owned()).to_string();
        include_str!("fresh.toml").replace("@NAME@", &quoted(name)).replace("@SECRET@", &quoted(secret))
    }
}
