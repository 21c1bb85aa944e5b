//! Web servers that tell what they have taken a request for: all have two areas, and name in `X-Pool` the one
//! that a request was for, as each of them reads its path and host. `private` is what is below `/private/`, or
//! of the host `private.example.com`; `public` is all else. For comparing Baton's reading with theirs.

use crate::content::DocRoot;
use crate::host::Host;
use crate::servers::placed;
use crate::webserver::WebServer;

impl WebServer {
    /// nginx.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_nginx(node: &Host, _files: &DocRoot) -> Self {
        Self::start_nginx(node, 80, "1", "", &placed(NGINX, node))
    }

    /// nginx that takes slashes in a row as they come.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_nginx_unmerged(node: &Host, _files: &DocRoot) -> Self {
        Self::start_nginx(node, 80, "1", "merge_slashes off;", &placed(NGINX, node))
    }

    /// Apache; it takes an escaped slash for a slash.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_apache(node: &Host, _files: &DocRoot) -> Self {
        Self::start_apache(node, APACHE)
    }

    /// lighttpd.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_lighttpd(node: &Host, _files: &DocRoot) -> Self {
        let config = node.scratch().write("lighttpd.conf", placed(LIGHTTPD, node));
        let mut command = node.command("lighttpd");
        command.arg("-D").arg("-f").arg(config);
        Self::start(node, "lighttpd", 80, command)
    }

    /// caddy.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_caddy(node: &Host, _files: &DocRoot) -> Self {
        let config = node.scratch().write("Caddyfile", placed(CADDY, node));
        let mut command = node.command("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
        command.env("XDG_DATA_HOME", node.scratch().path()).env("XDG_CONFIG_HOME", node.scratch().path());
        Self::start(node, "caddy", 80, command)
    }

    /// Node, with an application that compares the path as it was sent, but for escapes that mean themselves.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_node(node: &Host, _files: &DocRoot) -> Self {
        let script = node.scratch().write("telling.js", placed(NODE, node));
        let mut command = node.command("node");
        command.arg(script);
        Self::start(node, "node", 80, command)
    }

    /// HAProxy, which answers by itself.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_haproxy(node: &Host, _files: &DocRoot) -> Self {
        let config = node.scratch().write("haproxy.cfg", placed(HAPROXY, node));
        let mut command = node.command("haproxy");
        command.arg("-db").arg("-f").arg(config);
        Self::start(node, "haproxy", 80, command)
    }

    /// Python's own HTTP server.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn telling_python(node: &Host, _files: &DocRoot) -> Self {
        let script = node.scratch().write("telling.py", placed(PYTHON, node));
        let mut command = node.command("python3");
        command.arg("-u").arg(script);
        Self::start(node, "python", 80, command)
    }
}

/// The site's own braces close the server that it is in, and open another one.
const NGINX: &str = r#"
        location / { add_header X-Node @NODE@ always; add_header X-Pool public always; return 200 "public\n"; }
        location /private/ { add_header X-Node @NODE@ always; add_header X-Pool private always; return 200 "private\n"; }
    }
    server {
        listen 80;
        listen [::]:80;
        server_name private.example.com;
        add_header X-Node @NODE@ always;
        add_header X-Pool private always;
        location / { return 200 "private\n"; }
"#;

const APACHE: &str = r#"
Header always set X-Pool public
DocumentRoot @DIR@
<Directory />
    Require all granted
</Directory>
<VirtualHost *:80>
    ServerName default
    AllowEncodedSlashes On
    <Location /private/>
        Header always set X-Pool private
    </Location>
</VirtualHost>
<VirtualHost *:80>
    ServerName private.example.com
    AllowEncodedSlashes On
    Header always set X-Pool private
</VirtualHost>
"#;

const LIGHTTPD: &str = r#"
server.port = 80
$SERVER["socket"] == "[::]:80" { }
server.document-root = "@DIR@"
server.modules = ( "mod_setenv" )
setenv.add-response-header = ( "X-Node" => "@NODE@", "X-Pool" => "public" )
$HTTP["url"] =~ "^/private/" {
    setenv.add-response-header = ( "X-Node" => "@NODE@", "X-Pool" => "private" )
}
$HTTP["host"] =~ "^private\.example\.com(:\d*)?$" {
    setenv.add-response-header = ( "X-Node" => "@NODE@", "X-Pool" => "private" )
}
"#;

const CADDY: &str = r#"
{
    admin off
    auto_https off
    servers {
        protocols h1
    }
}
:80 {
    header X-Node @NODE@
    @path path /private/*
    @host host private.example.com
    handle @path {
        header X-Pool private
        respond "private"
    }
    handle @host {
        header X-Pool private
        respond "private"
    }
    handle {
        header X-Pool public
        respond "public"
    }
}
"#;

const NODE: &str = r#"
'use strict';
const same = text => { try { return decodeURI(text); } catch { return text; } };
require('http').createServer((req, res) => {
    const path = same(req.url.replace(/^https?:\/\/[^\/?]*/i, '').split('?')[0]);
    const host = (req.headers.host || '').replace(/:\d*$/, '').toLowerCase();
    const pool = path.startsWith('/private/') || host === 'private.example.com' ? 'private' : 'public';
    req.resume();
    req.on('end', () => {
        res.setHeader('X-Node', '@NODE@');
        res.setHeader('X-Pool', pool);
        res.end(pool + '\n');
    });
}).listen(80, '::');
"#;

const HAPROXY: &str = r#"
defaults
    mode http
    timeout client 30s
    timeout connect 5s
    timeout server 30s
frontend site
    bind :::80 v4v6
    acl private path,url_dec -m beg /private/
    acl private req.hdr(host),host_only,lower -m str private.example.com
    http-request return status 200 content-type text/plain string private hdr X-Node @NODE@ hdr X-Pool private if private
    http-request return status 200 content-type text/plain string public hdr X-Node @NODE@ hdr X-Pool public
"#;

const PYTHON: &str = r#"
import http.server, posixpath, re, socket, urllib.parse

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def tell(self):
        self.rfile.read(int(self.headers.get('Content-Length') or 0))
        sent = re.sub('^https?://[^/?]*', '', self.path, flags=re.I).split('?')[0].split('#')[0]
        path = posixpath.normpath(urllib.parse.unquote(sent)) + '/' * sent.endswith('/')
        host = re.sub(r':\d*$', '', self.headers.get('Host', '').strip()).lower()
        private = path.startswith('/private/') or host == 'private.example.com'
        pool = 'private' if private else 'public'
        self.send_response(200)
        self.send_header('X-Node', '@NODE@')
        self.send_header('X-Pool', pool)
        self.send_header('Content-Length', str(len(pool)))
        self.end_headers()
        self.wfile.write(pool.encode())

    def __getattr__(self, name):
        if name.startswith('do_'):
            return self.tell
        raise AttributeError(name)

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

Server(('::', 80), Handler).serve_forever()
"#;
