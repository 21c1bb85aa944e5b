//! `baton init`, `baton check` and the help texts, as someone at a shell meets them.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use baton_http::{HostMatch, PathMatch};
use common::{BATON, SECRET, Scratch, baton, run, workspace};

const COMMANDS: [&str; 5] = ["init", "check", "doctor", "node", "status"];

#[test]
fn init_writes_a_file_that_check_finds_right() {
    let dir = Scratch::new("init");
    let init = baton(&dir, &["init", "--name", "shop"]).exits(0);
    assert!(init.out.contains("baton check cluster.toml"), "{}", init.out);
    let mode = fs::metadata(dir.0.join("cluster.toml")).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let check = baton(&dir, &["check", "cluster.toml"]).exits(0);
    assert_eq!(check.err, "");
    let expected = "\
cluster shop: 3 nodes, 1 service

NODE   ADDRESS    ROLES                    WEIGHT  INTERFACES  ANNOUNCES
front  10.1.0.10  distributor, dispatcher  -       by address  10.99.0.1
s1     10.1.0.11  server                   1       by address  -
s2     10.1.0.12  server                   1       by address  -

SERVICE  CLIENTS CONNECT TO  REQUESTS ARE SERVED
www      10.99.0.1:80        anywhere

SERVICE  POOL  SERVERS  POLICY  CONSULT  KEY   P-HTTP
www      www   s1, s2   lard    cached   path  stay

cluster.toml is right
";
    assert_eq!(check.out, expected);
}

#[test]
fn every_init_has_a_secret_of_its_own() {
    let dir = Scratch::new("secrets");
    let secret = |file: &str| {
        baton(&dir, &["init", "--output", file]).exits(0);
        let text = fs::read_to_string(dir.0.join(file)).expect("written");
        let line = text.lines().find(|line| line.starts_with("secret = ")).expect("a secret");
        line.trim_start_matches("secret = ").trim_matches('"').to_owned()
    };
    let (a, b) = (secret("a.toml"), secret("b.toml"));
    assert_ne!(a, b);
    for secret in [a, b] {
        assert!(
            secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit()),
            "32 bytes in hexadecimal"
        );
    }
}

#[test]
fn init_overwrites_nothing() {
    let dir = Scratch::new("overwrite");
    let file = dir.write("cluster.toml", "mine");
    let init = baton(&dir, &["init"]).exits(1);
    assert!(init.err.contains("cluster.toml exists"), "{}", init.err);
    assert_eq!(fs::read_to_string(file).expect("still there"), "mine");
    // Nor through a link that leads nowhere yet.
    std::os::unix::fs::symlink(dir.0.join("elsewhere"), dir.0.join("link.toml")).expect("an own folder");
    baton(&dir, &["init", "--output", "link.toml"]).exits(1);
    assert!(!dir.0.join("elsewhere").exists());
}

#[test]
fn init_refuses_a_bad_name_and_a_missing_folder() {
    let dir = Scratch::new("names");
    let named = baton(&dir, &["init", "--name", "My Shop"]).exits(2);
    assert!(named.err.contains("help:"), "{}", named.err);
    assert!(!dir.0.join("cluster.toml").exists());
    let none = baton(&dir, &["init", "--output", "no/such/folder.toml"]).exits(1);
    assert!(none.err.contains("help: make its folder: mkdir -p no/such\n"), "{}", none.err);
}

#[test]
fn init_prints_a_file_and_check_reads_one_from_standard_input() {
    let dir = Scratch::new("pipe");
    let script = "$BATON init --name shop -o - | $BATON check -";
    let shell =
        |script: &str| run(Command::new("sh").args(["-c", script]).env("BATON", BATON).current_dir(&dir.0));
    let check = shell(script).exits(0);
    assert!(check.out.starts_with("cluster shop: 3 nodes"), "{}", check.out);
    assert!(check.out.ends_with("\nstandard input is right\n"), "{}", check.out);
    assert_eq!(fs::read_dir(&dir.0).expect("an own folder").count(), 0, "nothing was written");
    let wrong = shell("echo '[cluster' | $BATON check -").exits(1);
    assert!(wrong.err.contains("  --> standard input:1\n"), "{}", wrong.err);
    let endless = shell("$BATON check - --json < /dev/zero").exits(1);
    assert_eq!((&endless.json()["ok"], &*endless.err), (&false.into(), ""), "{}", endless.out);
    assert!(endless.json()["error"].as_str().is_some_and(|e| e.contains("longer than")), "{}", endless.out);
}

#[test]
fn check_tells_every_problem_with_its_line_and_what_to_do() {
    let dir = Scratch::new("problems");
    baton(&dir, &["init"]).exits(0);
    let good = fs::read_to_string(dir.0.join("cluster.toml")).expect("written");
    let bad = good.replace("\"s2\"", "\"s1\"").replace("\nport = 80\n", "\nprot = 80\n");
    dir.write("bad.toml", &bad);
    let line = |what: &str| bad.lines().position(|line| line == what).expect("there") + 1;

    let check = baton(&dir, &["check", "bad.toml"]).exits(1);
    assert_eq!(check.out, "");
    let shown =
        format!("  --> bad.toml:{at}\n   |\n{at:>3}| prot = 80\n   |\n   = help: ", at = line("prot = 80"));
    assert!(check.err.contains(&shown), "{}", check.err);
    assert!(check.err.contains("second node is named \"s1\""), "{}", check.err);
    assert!(check.err.ends_with("bad.toml: 3 problems\n"), "{}", check.err);

    let json = baton(&dir, &["check", "--json", "bad.toml"]).exits(1).json();
    assert_eq!(json["ok"], false);
    assert!(json["cluster"].is_null());
    let problems = json["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 3);
    assert!(problems.iter().any(|p| p["line"] == line("prot = 80")), "{json}");
    assert!(problems.iter().all(|p| p["what"].is_string() && p["help"].is_string()), "{json}");
}

#[test]
fn check_never_prints_a_secret() {
    let dir = Scratch::new("leak");
    let good = fs::read_to_string(dir.one_node()).expect("written");
    let spoilt = [
        good.replace("secret = ", "secert = "),
        good.replace(&format!("\"{SECRET}\""), SECRET),
        good.replace(&format!("\"{SECRET}\""), &format!("\"{SECRET}")),
        good.replace(&format!("\"{SECRET}\""), &format!("\"\"\"\n{SECRET}\n\"\"")),
        good.replace("10.1.0.11", "nowhere"),
    ];
    for text in spoilt {
        dir.write("bad.toml", &text);
        for arguments in [&["check", "bad.toml"][..], &["check", "--json", "bad.toml"]] {
            let check = baton(&dir, arguments).exits(1);
            assert!(!(check.out + &check.err).contains(SECRET), "{text}");
        }
    }
}

#[test]
fn check_describes_the_examples() {
    let dir = Scratch::new("examples");
    let examples = [
        ("all-on-one", 1),
        ("figure5", 4),
        ("figure6", 6),
        ("figure7", 5),
        ("no-switch", 3),
        ("pools", 5),
        ("tls", 5),
    ];
    for (name, nodes) in examples {
        let text = fs::read_to_string(workspace(&format!("examples/{name}.toml"))).expect("an example");
        let at = text.find("\nsecret = ").expect("an example has a secret") + 1;
        let end = at + text[at..].find('\n').expect("another line");
        let file = dir.write(name, &format!("{}secret = \"{SECRET}\"{}", &text[..at], &text[end..]));
        let json = baton(&dir, &["check", "--json", &file.display().to_string()]).exits(0).json();
        assert_eq!(json["ok"], true);
        assert_eq!(json["warnings"].as_array().map(Vec::len), Some(0), "{json}");
        assert_eq!(json["cluster"]["name"], name);
        assert_eq!(json["cluster"]["nodes"].as_array().map(Vec::len), Some(nodes), "{name}");
        assert!(!json.to_string().contains(SECRET));
    }
}

#[test]
fn check_shows_pools_and_routes_by_precedence() {
    let dir = Scratch::new("pools");
    let text = fs::read_to_string(workspace("examples/pools.toml")).expect("an example");
    let text = text.replace("replace me: baton init prints a fresh one", SECRET);
    dir.write("pools.toml", &text);
    let check = baton(&dir, &["check", "pools.toml"]).exits(0);
    let expected = "
SERVICE  CLIENTS CONNECT TO  REQUESTS ARE SERVED
www      10.99.0.1:80        in their pool alone

SERVICE  POOL    SERVERS         POLICY        CONSULT  KEY             P-HTTP
www      site    w1, w2          lard          cached   cookie:session  stay
www      images  i1, i2          lard/r        cached   path            extended-lard
www      search  w1, w2, i1, i2  least-loaded  cached   path            stay

SERVICE  HOST             PATH             METHODS    POOL
www      img.example.com  any              any        images
www      any              /favicon.ico     any        images
www      any              /img/upload/...  any        site
www      any              /search...       GET, HEAD  search
www      any              /img/...         any        images
www      any other                                    site

pools.toml is right
";
    assert!(check.out.ends_with(expected), "{}", check.out);
    let json = baton(&dir, &["check", "--json", "pools.toml"]).exits(0).json();
    let service = &json["cluster"]["services"][0];
    assert_eq!(service["strict"], true);
    assert_eq!(service["pools"][1]["servers"], serde_json::json!([3, 4]));
    assert_eq!(service["pools"][0]["key"], "cookie:session");
    let route = serde_json::json!(
        { "host": null, "path": "/search", "path_exact": null, "methods": ["GET", "HEAD"], "pool": "search" }
    );
    assert_eq!(service["routes"][4], route);
}

#[test]
fn check_shows_names_and_protocols() {
    let dir = Scratch::new("tls");
    let text = fs::read_to_string(workspace("examples/tls.toml")).expect("an example");
    dir.write("tls.toml", &text.replace("replace me: baton init prints a fresh one", SECRET));
    let check = baton(&dir, &["check", "tls.toml"]).exits(0);
    let expected = "
SERVICE  CLIENTS CONNECT TO  REQUESTS ARE SERVED
secure   10.99.0.1:443       by server name (TLS)
www      10.99.0.1:80        anywhere
cache    10.99.0.1:6379      by load alone (TCP)

SERVICE  POOL   SERVERS         POLICY        CONSULT  KEY   P-HTTP
secure   site   w1, w2          least-loaded  cached   name  -
secure   api    a1, a2          lard          cached   name  -
www      www    w1, w2, a1, a2  wrr           cached   path  stay
cache    cache  a1, a2          least-loaded  cached   -     -

SERVICE  SERVER NAME        ALPN        POOL
secure   *.api.example.org  acme-tls/1  site
secure   *.api.example.org  any         api
secure   any other                      site

tls.toml is right
";
    assert!(check.out.ends_with(expected), "{}", check.out);
    let json = baton(&dir, &["check", "--json", "tls.toml"]).exits(0).json();
    let services = &json["cluster"]["services"];
    assert_eq!((&services[0]["protocol"], &services[0]["default_pool"]), (&"tls".into(), &"site".into()));
    let name = serde_json::json!({ "host": "*.api.example.org", "alpn": null, "pool": "api" });
    assert_eq!(services[0]["names"][1], name);

    let greets = text.replace("# speaks_first = \"client\"", "speaks_first = \"server\"");
    dir.write("greets.toml", &greets.replace("replace me: baton init prints a fresh one", SECRET));
    let refused = baton(&dir, &["check", "greets.toml"]).exits(1);
    assert!((refused.out + &refused.err).contains("would wait for the server for ever"));
}

#[test]
fn check_refuses_routes_that_the_programs_have_no_room_for() {
    let room = (baton_datapath::constants::PATH_MAX, baton_datapath::constants::HOSTS_MAX);
    assert_eq!((PathMatch::LEN_MAX as u32, HostMatch::TOGETHER_MAX as u32), (room.0 - 1, room.1));

    let dir = Scratch::new("room");
    let text = fs::read_to_string(workspace("examples/pools.toml")).expect("an example");
    let mut text = text.replace("replace me: baton init prints a fresh one", SECRET);
    let route =
        |key: &str, value: &str| format!("[[service.route]]\npool = \"images\"\n{key} = \"{value}\"\n");
    text.push_str(&route("path", &format!("/{}", "a".repeat(126))));
    for host in ["*.org", "*.a.org", "*.b.a.org", "c.b.a.org"] {
        text.push_str(&route("host", host));
    }
    dir.write("fits.toml", &text);
    baton(&dir, &["check", "fits.toml"]).exits(0);

    text.push_str(&route("path_exact", &format!("/{}", "b".repeat(127))));
    dir.write("long.toml", &text);
    let long = baton(&dir, &["check", "--json", "long.toml"]).exits(1).json();
    let problems = long["problems"].as_array().expect("a list");
    let help = "a route's path has at most 127 characters";
    assert!(problems.len() == 1 && problems[0]["help"] == help, "{long}");

    let many = text.replace("path_exact = \"/bbb", "host = \"d.c.b.a.org\" #");
    let many = many.replace("\"c.b.a.org\"", "\"*.c.b.a.org\"");
    dir.write("many.toml", &many);
    let many = baton(&dir, &["check", "many.toml"]).exits(1).err;
    assert!(many.contains("5 hosts of the service's routes match d.c.b.a.org, 4 are the most"), "{many}");
}

#[test]
fn check_warns_and_is_content() {
    let dir = Scratch::new("warnings");
    let text = fs::read_to_string(dir.one_node()).expect("written").replace("port = 80", "port = 443");
    dir.write("tls.toml", &text);
    let check = baton(&dir, &["check", "tls.toml"]).exits(0);
    assert!(check.out.starts_with("warning: "), "{}", check.out);
    assert!(check.out.ends_with("tls.toml is right, with 1 warning\n"), "{}", check.out);
    let json = baton(&dir, &["check", "--json", "tls.toml"]).exits(0).json();
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(1), "{json}");
}

#[test]
fn check_says_what_cannot_be_read() {
    let dir = Scratch::new("unreadable");
    let check = baton(&dir, &["check", "none.toml"]).exits(1);
    assert!(check.err.contains("cannot read the cluster file none.toml"), "{}", check.err);
    dir.write("syntax.toml", "[cluster\nname =");
    let syntax = baton(&dir, &["check", "syntax.toml"]).exits(1);
    assert!(syntax.err.contains("  --> syntax.toml:1\n   |\n  1| [cluster\n"), "{}", syntax.err);
    for (bytes, what) in [
        (&b"[cluster]\nname = \xe9"[..], "it is not text: byte 17, on line 2, is 0xe9"),
        (b"\x7fELF\x02\0", "it is not text: byte 5, on line 1, is 0x00"),
        (b"\xff\xfe[\0", "it is not text in UTF-8, but in UTF-16"),
    ] {
        fs::write(dir.0.join("bytes.toml"), bytes).expect("an own folder");
        let check = baton(&dir, &["check", "bytes.toml"]).exits(1);
        assert!(
            check.err.contains(what) && check.err.contains("help: is it the right file?"),
            "{}",
            check.err
        );
    }
}

#[test]
fn a_long_line_is_cut_where_it_is_shown() {
    let dir = Scratch::new("long-line");
    let text = fs::read_to_string(dir.one_node()).expect("written");
    dir.write("long.toml", &text.replace("roles = [", &format!("roles = [{}", "\"x\", ".repeat(8000))));
    let check = baton(&dir, &["check", "long.toml"]).exits(1);
    assert!(check.err.contains("roles = [\"x\""), "{}", check.err);
    assert!(
        check.err.lines().all(|line| line.len() < 200),
        "{}",
        check.err.lines().map(str::len).max().unwrap_or(0)
    );
}

/// A script that asked for JSON gets nothing else.
#[test]
fn what_goes_wrong_is_json_where_json_was_asked_for() {
    let dir = Scratch::new("json-errors");
    dir.write("bad.toml", "[cluster]\nname = 3\n");
    let told = |arguments: &[&str], code| {
        let ran = baton(&dir, arguments).exits(code);
        assert_eq!(ran.err, "", "{arguments:?}");
        let told = ran.json();
        assert_eq!(told["exit_code"], code, "{arguments:?}: {told}");
        told
    };
    let none = told(&["check", "none.toml", "--json"], 1);
    assert_eq!((&none["ok"], &none["file"]), (&false.into(), &"none.toml".into()));
    assert!(none["help"].as_str().is_some_and(|help| help.contains("baton init")), "{none}");
    let none = told(&["doctor", "--config", "none.toml", "--json"], 78);
    assert!(none["error"].as_str().is_some_and(|e| e.starts_with("cannot read the cluster file")), "{none}");
    let bad = told(&["doctor", "--config", "bad.toml", "--json"], 78);
    assert!(bad["problems"].as_array().is_some_and(|all| all.iter().any(|one| one["line"] == 2)), "{bad}");
    let usage = told(&["status", "--json", "--nod", "s1"], 2);
    assert!(usage["error"].as_str().is_some_and(|e| e.contains("--nod")), "{usage}");
}

#[test]
fn a_file_of_another_user_is_read_as_root() {
    let dir = Scratch::new("forbidden");
    fs::set_permissions(dir.one_node(), fs::Permissions::from_mode(0o000)).expect("an own file");
    let plain_user = ["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", BATON, "check"];
    let refused = run(Command::new("setpriv").args(plain_user).arg("one.toml").current_dir(&dir.0));
    let err = refused.exits(1).err;
    assert!(err.contains("run this as root") && !err.contains("baton init"), "{err}");
}

/// What never ends, or is not the file that was meant, is refused before it is read.
#[test]
fn check_reads_nothing_but_files_of_a_size() {
    let dir = Scratch::new("not-files");
    nix::unistd::mkfifo(&dir.0.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("an own folder");
    fs::create_dir(dir.0.join("folder")).expect("an own folder");
    let large = fs::File::create(dir.0.join("large.toml")).expect("an own folder");
    large.set_len(1 << 40).expect("a file with a hole");
    for file in ["/dev/zero", "/dev/null", "pipe", "folder"] {
        let refused = baton(&dir, &["check", file]).exits(1).err;
        assert!(refused.contains("not a regular file"), "{file}: {refused}");
    }
    let refused = baton(&dir, &["check", "large.toml"]).exits(1).err;
    assert!(refused.contains("longer than 1048576 bytes"), "{refused}");
    let refused = baton(&dir, &["doctor", "--config", "pipe", "--node", "n1"]).exits(78).err;
    assert!(refused.contains("not a regular file"), "{refused}");
}

#[test]
fn check_warns_of_a_secret_that_others_may_read() {
    let dir = Scratch::new("exposed");
    let file = dir.one_node();
    for (mode, may) in [(0o600, None), (0o640, None), (0o644, Some("read")), (0o606, Some("change"))] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("an own file");
        let said = baton(&dir, &["check", "one.toml"]).exits(0).out;
        let warns = said.contains("every user of this machine may");
        assert_eq!(warns, may.is_some(), "{mode:o}: {said}");
        let names = |may: &str| {
            said.contains(&format!("may {may} one.toml")) && said.contains("chmod o-rwx one.toml")
        };
        assert!(may.is_none_or(names), "{mode:o}: {said}");
        let warnings = baton(&dir, &["check", "--json", "one.toml"]).exits(0).json()["warnings"].clone();
        assert_eq!(warnings.as_array().map(Vec::len), Some(usize::from(may.is_some())), "{warnings}");
    }
}

#[test]
fn help_teaches() {
    let dir = Scratch::new("help");
    let help = baton(&dir, &["--help"]).exits(0).out;
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in: {help}");
        assert!(help.contains(&format!("\n  baton {command}")), "no example of {command}: {help}");
        let own = baton(&dir, &[command, "--help"]).exits(0).out;
        assert!(own.contains(&format!("Examples:\n  baton {command}")), "{own}");
        assert!(baton(&dir, &[command, "-h"]).exits(0).out.contains("Examples:"));
    }
    for code in ["\n   0  ", "\n   1  ", "\n   2  ", "\n   3  ", "\n  77  ", "\n  78  "] {
        assert!(help.contains(code), "{code:?} is not in: {help}");
    }
}

#[test]
fn a_wrong_word_is_met_with_the_right_one() {
    let dir = Scratch::new("meant");
    let command = baton(&dir, &["statsu"]).exits(2);
    assert!(command.err.contains("'status'"), "{}", command.err);
    let option = baton(&dir, &["status", "--run-dri", "."]).exits(2);
    assert!(option.err.contains("'--run-dir'"), "{}", option.err);
}

/// Without options a command goes by the usual file, and by this machine's name.
#[test]
fn the_file_and_the_node_need_not_be_named() {
    let dir = Scratch::new("defaults");
    let file = dir.one_node();
    for command in ["doctor", "node"] {
        let help = baton(&dir, &[command, "--help"]).exits(0).out;
        assert!(help.contains("[default: /etc/baton/cluster.toml]"), "{help}");
        assert!(help.contains("[default: this machine's host name"), "{help}");
    }
    let as_host = |name: &str, mount: &str| {
        let script = format!(
            "mkdir -p etc/baton && cp one.toml etc/baton/cluster.toml && {mount} && \
             echo {name} > /proc/sys/kernel/hostname && $BATON doctor --json --run-dir ."
        );
        let unshare = ["--net", "--uts", "--mount", "sh", "-c", &script];
        run(Command::new("unshare").args(unshare).env("BATON", BATON).current_dir(&dir.0))
    };
    let usual = "mount --bind etc /etc";
    let found = as_host("N1.example.org", usual).exits(1).json();
    assert_eq!(found["node"], "n1", "{found}");
    let other = as_host("web7", usual).exits(78).json();
    let said = other["error"].as_str().expect("an error");
    assert!(said.contains("/etc/baton/cluster.toml has no node \"web7\"; it has n1"), "{other}");
    assert!(other["help"].as_str().is_some_and(|help| help.contains("--node NAME")), "{other}");
    fs::remove_file(file).expect("an own file");
}

#[test]
fn wrong_usage_exits_with_2() {
    let dir = Scratch::new("usage");
    for arguments in [
        &[][..],
        &["dance"],
        &["check"],
        &["check", "a", "b"],
        &["node", "n1"],
        &["doctor", "--config"],
        &["node", "--config", "one.toml", "--node", "n1", "--log", "baton=loud"],
    ] {
        let wrong = baton(&dir, arguments).exits(2);
        assert!(wrong.err.contains("--help") || wrong.err.contains("Usage"), "{}", wrong.err);
    }
}
