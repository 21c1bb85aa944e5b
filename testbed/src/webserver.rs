//! Web servers on a node, from their Debian packages and configured as anyone would: they know
//! nothing of what stands before them. Each names its node in the header `X-Node`, and logs who the
//! client was. Here are nginx and Apache, and what all of them log; [`crate::servers`] has the rest.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::content::DocRoot;
use crate::host::Host;
use crate::process::Process;

/// For a server to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the cache behind Apache listens.
const CACHE_PORT: u16 = 8081;

/// A web server on port 80 of a node; stopped when dropped.
#[derive(Debug)]
pub struct WebServer {
    node: String,
    process: Process,
    _behind: Option<Box<WebServer>>,
    access_log: PathBuf,
}

/// A line of a web server's access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The client as the server's accept() saw it.
    pub client: SocketAddr,
    /// The status answered.
    pub status: u16,
    /// The path requested.
    pub path: String,
}

impl WebServer {
    /// nginx with static files.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn nginx(node: &Host, files: &DocRoot) -> Self {
        let site = format!("root {};", files.path().display());
        Self::start_nginx(node, 80, "auto", "", &site)
    }

    /// nginx as a caching proxy before an origin. The cache has room for about `objects` responses;
    /// one more pushes the least recently used one out at once. It is empty at the start. `X-Cache`
    /// says HIT or MISS.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn caching_nginx(node: &Host, origin: SocketAddr, objects: usize) -> Self {
        Self::start_cache(node, 80, origin, objects)
    }

    /// Apache as a proxy before a small cache on its own machine: the nginx of
    /// [`WebServer::caching_nginx`], on a port of its own. (Apache's own caches are bounded only by a
    /// cleaner that runs once a minute, or keep too few of the objects that they have room for.)
    ///
    /// # Panics
    /// When one is not installed or does not start.
    #[track_caller]
    pub fn apache_before_cache(node: &Host, origin: SocketAddr, objects: usize) -> Self {
        let cache = Self::start_cache(node, CACHE_PORT, origin, objects);
        let site = APACHE_PROXY.replace("@PORT@", &CACHE_PORT.to_string());
        Self::start_apache(node, &site).before(cache)
    }

    #[track_caller]
    fn start_cache(node: &Host, port: u16, origin: SocketAddr, objects: usize) -> Self {
        let cache = node.scratch().path().join("cache");
        // What an earlier one has left; mostly nothing.
        let _ = std::fs::remove_dir_all(&cache);
        let cache = format!(
            "proxy_cache_path {} keys_zone=small:{}k inactive=1h;",
            cache.display(),
            zone_kb(objects)
        );
        let site = format!(
            "location / {{ proxy_pass http://{origin}; proxy_cache small; proxy_cache_valid 200 1h; \
             proxy_cache_lock on; add_header X-Cache $upstream_cache_status always; \
             add_header X-Node {} always; }}",
            node.name()
        );
        // One worker: of two, one may take the room that the other has just made in the key zone, which
        // answers 500 then.
        Self::start_nginx(node, port, "1", &cache, &site)
    }

    #[track_caller]
    pub(crate) fn start_nginx(node: &Host, port: u16, workers: &str, http: &str, site: &str) -> Self {
        let config = NGINX.replace("@HTTP@", http).replace("@SITE@", site);
        let config = config.replace("@NODE@", node.name()).replace("@DIR@", &dir(node));
        let config = config.replace("@PORT@", &port.to_string()).replace("@WORKERS@", workers);
        let config = node.scratch().write("nginx.conf", config);
        let mut command = node.command("nginx");
        command.arg("-c").arg(config);
        Self::start(node, "nginx", port, command)
    }

    /// Apache with static files.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[track_caller]
    pub fn apache(node: &Host, files: &DocRoot) -> Self {
        Self::start_apache(node, &APACHE_FILES.replace("@FILES@", &files.path().display().to_string()))
    }

    #[track_caller]
    pub(crate) fn start_apache(node: &Host, site: &str) -> Self {
        let config = APACHE.replace("@SITE@", site);
        let config = config.replace("@NODE@", node.name()).replace("@DIR@", &dir(node));
        let config = node.scratch().write("apache.conf", config);
        let mut command = node.command("apache2");
        command.arg("-DFOREGROUND").arg("-f").arg(config);
        Self::start(node, "apache", 80, command)
    }

    #[track_caller]
    pub(crate) fn start(node: &Host, name: &str, port: u16, command: std::process::Command) -> Self {
        let mut process = node.start(name, command);
        process.wait_ready(PATIENCE, || node.listens(port));
        let access_log = node.scratch().path().join(format!("{name}-access.log"));
        Self { node: node.name().to_owned(), process, _behind: None, access_log }
    }

    /// This server, which passes requests on to another one.
    pub(crate) fn before(self, behind: Self) -> Self {
        Self { _behind: Some(Box::new(behind)), ..self }
    }

    /// The name of the node that it runs on.
    pub fn on_node(&self) -> &str {
        &self.node
    }

    /// The server's main process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it has logged so far. A server logs a request after its answer: wait for the line.
    ///
    /// # Panics
    /// When a line is not as configured.
    #[track_caller]
    pub fn logged(&self) -> Vec<Logged> {
        let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| logged(line).unwrap_or_else(|| panic!("bad log line {line:?}"))).collect()
    }
}

pub(crate) fn dir(node: &Host) -> String {
    node.scratch().path().display().to_string()
}

/// `10.2.0.2 40000 200 GET /x.1 HTTP/1.1`, the same in all servers but caddy, whose lines are JSON.
fn logged(line: &str) -> Option<Logged> {
    if line.starts_with('{') {
        return logged_json(line);
    }
    let mut words = line.split(' ');
    let address: IpAddr = words.next()?.parse().ok()?;
    let client = SocketAddr::new(address.to_canonical(), words.next()?.parse().ok()?);
    let status = words.next()?.parse().ok()?;
    Some(Logged { client, status, path: words.nth(1)?.to_owned() })
}

fn logged_json(line: &str) -> Option<Logged> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let request = &line["request"];
    let address: IpAddr = request["remote_ip"].as_str()?.parse().ok()?;
    let port = request["remote_port"].as_str()?.parse().ok()?;
    Some(Logged {
        client: SocketAddr::new(address.to_canonical(), port),
        status: line["status"].as_u64()?.try_into().ok()?,
        path: request["uri"].as_str()?.to_owned(),
    })
}

/// The size of nginx's key zone, in KiB, that holds about so many keys. nginx bounds a cache by
/// bytes only every ten seconds, but by keys at once; so that is what bounds this one. A page of
/// 4 KiB holds 32 keys, and the zone's own bookkeeping takes some pages; 8 pages is the least.
fn zone_kb(objects: usize) -> usize {
    (objects.div_ceil(32) + 3).max(8) * 4
}

const NGINX: &str = r#"
daemon off;
user www-data;
worker_processes @WORKERS@;
pid @DIR@/nginx.pid;
error_log @DIR@/nginx-error.log;
events { worker_connections 4096; }
http {
    log_format client '$remote_addr $remote_port $status $request';
    access_log @DIR@/nginx-access.log client;
    client_body_temp_path @DIR@/body;
    proxy_temp_path @DIR@/proxy;
    fastcgi_temp_path @DIR@/fastcgi;
    uwsgi_temp_path @DIR@/uwsgi;
    scgi_temp_path @DIR@/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    @HTTP@
    server {
        listen @PORT@;
        listen [::]:@PORT@;
        add_header X-Node @NODE@ always;
        @SITE@
    }
}
"#;

/// `Listen 80` is Debian's own: one IPv6 socket that takes IPv4 too, unlike nginx's two. More threads
/// than Debian's 25 a process: the event module may close idle persistent connections of a process
/// that has no free one, and a test could not tell this from a connection that Baton has lost.
const APACHE: &str = r#"
ServerRoot @DIR@
DefaultRuntimeDir @DIR@
PidFile @DIR@/apache.pid
ServerName @NODE@
Listen 80
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
User www-data
Group www-data
ErrorLog @DIR@/apache-error.log
LogFormat "%a %{remote}p %>s %r" client
CustomLog @DIR@/apache-access.log client
Header always set X-Node @NODE@
KeepAlive On
MaxKeepAliveRequests 0
StartServers 2
ThreadLimit 200
ThreadsPerChild 200
MaxRequestWorkers 800
MinSpareThreads 50
MaxSpareThreads 800
@SITE@
"#;

const APACHE_FILES: &str = "
DocumentRoot @FILES@
<Directory @FILES@>
    Require all granted
</Directory>
";

const APACHE_PROXY: &str = "
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
ProxyPass / http://127.0.0.1:@PORT@/
";

#[cfg(test)]
mod tests {
    use super::logged;

    #[test]
    fn log_lines_of_either_address_family_are_read() {
        let line = logged("::ffff:10.2.0.2 40000 200 GET /x.1 HTTP/1.1").expect("a line");
        assert_eq!(line.client, "10.2.0.2:40000".parse().expect("an address"));
        assert_eq!((line.status, line.path.as_str()), (200, "/x.1"));
        assert!(logged("10.2.0.2 - 200").is_none());
        let json = r#"{"request":{"remote_ip":"10.2.0.2","remote_port":"4","uri":"/x"},"status":200}"#;
        let line = logged(json).expect("a line");
        assert_eq!((line.client.to_string().as_str(), line.path.as_str()), ("10.2.0.2:4", "/x"));
    }
}
