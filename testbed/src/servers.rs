//! More web servers, beside the nginx and Apache of [`crate::webserver`]: lighttpd, caddy and Node, and
//! nginx with an application server behind it. Node runs `app.js`, which is part of the testbed.

use std::os::unix::fs::PermissionsExt;

use crate::content::DocRoot;
use crate::host::Host;
use crate::webserver::{WebServer, dir};

/// Where the application server behind nginx listens.
const APP_PORT: u16 = 8082;

impl WebServer {
    /// lighttpd with static files.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn lighttpd(node: &Host, files: &DocRoot) -> Self {
        let config = filled(LIGHTTPD, node, files);
        let config = node.scratch().write("lighttpd.conf", config);
        // It opens its log as the user that it becomes.
        let log = node.scratch().write("lighttpd-access.log", "");
        let anybody = std::fs::set_permissions(log, PermissionsExt::from_mode(0o666));
        anybody.expect("an own file");
        let mut command = node.command("lighttpd");
        command.arg("-D").arg("-f").arg(config);
        Self::start(node, "lighttpd", 80, command)
    }

    /// caddy with static files; it speaks HTTP/2 without TLS too.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn caddy(node: &Host, files: &DocRoot) -> Self {
        let config = node.scratch().write("Caddyfile", filled(CADDY, node, files));
        let mut command = node.command("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
        command.env("XDG_DATA_HOME", node.scratch().path()).env("XDG_CONFIG_HOME", node.scratch().path());
        Self::start(node, "caddy", 80, command)
    }

    /// Node's own HTTP server with the testbed's application: contents without files, uploads, long
    /// polling, server-sent events, upgrades (see the head of `app.js`).
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn node(node: &Host, files: &DocRoot) -> Self {
        Self::start_app(node, 80, files)
    }

    /// nginx with static files, and the application of [`WebServer::node`] behind it for `/app/`.
    ///
    /// # Panics
    /// When one is not installed or does not start.
    #[track_caller]
    pub fn nginx_before_app(node: &Host, files: &DocRoot) -> Self {
        let app = Self::start_app(node, APP_PORT, files);
        let site = format!(
            "root {}; client_max_body_size 0; location /app/ {{ proxy_hide_header X-Node; \
             proxy_pass http://127.0.0.1:{APP_PORT}; }}",
            files.path().display()
        );
        Self::start_nginx(node, 80, "auto", "", &site).before(app)
    }

    #[track_caller]
    fn start_app(node: &Host, port: u16, files: &DocRoot) -> Self {
        let script = node.scratch().write("app.js", include_str!("app.js"));
        let mut command = node.command("node");
        command.arg(script).arg(port.to_string()).arg(node.name());
        command.arg(node.scratch().path().join("node-access.log")).arg(files.path());
        Self::start(node, "node", port, command)
    }
}

fn filled(config: &str, node: &Host, files: &DocRoot) -> String {
    placed(config, node).replace("@FILES@", &files.path().display().to_string())
}

/// A configuration of this node.
pub(crate) fn placed(config: &str, node: &Host) -> String {
    config.replace("@NODE@", node.name()).replace("@DIR@", &dir(node))
}

/// It closes a persistent connection after 100 requests unless told otherwise. Its second socket is for
/// IPv6 alone.
const LIGHTTPD: &str = r#"
server.port = 80
$SERVER["socket"] == "[::]:80" { }
server.document-root = "@FILES@"
server.username = "www-data"
server.groupname = "www-data"
server.max-keep-alive-requests = 60000
server.max-keep-alive-idle = 60
server.modules = ( "mod_setenv", "mod_accesslog" )
setenv.add-response-header = ( "X-Node" => "@NODE@" )
accesslog.filename = "@DIR@/lighttpd-access.log"
accesslog.format = "%a %{remote}p %s %r"
"#;

/// The admin interface would be the same port on every node's loopback; nobody needs it.
const CADDY: &str = r#"
{
    admin off
    auto_https off
    servers {
        protocols h1 h2c
    }
}
:80 {
    header X-Node @NODE@
    root * @FILES@
    file_server
    log {
        output file @DIR@/caddy-access.log {
            roll_disabled
        }
        format json
    }
}
"#;
