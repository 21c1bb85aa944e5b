//! Certificates for the web servers of a test, self-signed by openssl, and the nginx that uses them.

use std::path::PathBuf;
use std::process::Command;

use crate::content::DocRoot;
use crate::host::Host;
use crate::tools::{succeed, tool};
use crate::webserver::WebServer;

/// A certificate for one name, with its key; of the machine whose scratch directory it is in.
#[derive(Debug, Clone)]
pub struct Certificate {
    name: String,
    pem: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Makes one. Its subject's organisation is the machine's name, so that a client can tell whose it got.
    ///
    /// # Panics
    /// When openssl is not installed or fails.
    #[track_caller]
    pub fn new(host: &Host, name: &str) -> Self {
        let file = |end: &str| host.scratch().path().join(format!("{name}.{end}"));
        let (pem, key) = (file("pem"), file("key"));
        let mut command = Command::new(tool("openssl"));
        command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
        command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj"]);
        command.arg(format!("/O=node-{}/CN={name}", host.name()));
        command.arg("-addext").arg(format!("subjectAltName=DNS:{name}"));
        command.arg("-out").arg(&pem).arg("-keyout").arg(&key);
        succeed(&mut command);
        Self { name: name.to_owned(), pem, key }
    }

    /// The file with the certificate.
    pub fn pem(&self) -> &PathBuf {
        &self.pem
    }
}

impl WebServer {
    /// nginx with static files on port 80, and by TLS on port 443 with HTTP/2: a server for each certificate.
    /// The first one answers those who name none. `more` is more of the `http` section.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn secure_nginx(node: &Host, files: &DocRoot, certificates: &[Certificate], more: &str) -> Self {
        let root = format!("root {};", files.path().display());
        let sites = certificates.iter().map(|certificate| {
            SECURE
                .replace("@NAME@", &certificate.name)
                .replace("@PEM@", &certificate.pem.display().to_string())
                .replace("@KEY@", &certificate.key.display().to_string())
        });
        let http = sites.collect::<String>() + more;
        Self::start_nginx(node, 80, "auto", &http.replace("@SITE@", &root), &root)
    }
}

/// As Debian's own example, with HTTP/2.
const SECURE: &str = "
    server {
        listen 443 ssl http2;
        listen [::]:443 ssl http2;
        server_name @NAME@;
        ssl_certificate @PEM@;
        ssl_certificate_key @KEY@;
        ssl_protocols TLSv1.2 TLSv1.3;
        add_header X-Node @NODE@ always;
        @SITE@
    }
";
