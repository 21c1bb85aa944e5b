//! The firewall's rules as the tools list them, and which of them would drop a handed-off connection.
//! Such a connection begins, for this host, with a data packet; a rule that wants each new connection
//! to begin with a SYN drops it. Pure; `read` runs the tools.

use std::net::IpAddr;

/// A firewall's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// All rules, in the order in which the tools list them.
    pub rules: Vec<Rule>,
    /// The tables that drop incoming packets which no rule accepts.
    pub drop_by_default: Vec<String>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its table, such as `inet filter`, `iptables filter` or `ip6tables filter`.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// The hook that the chain sits at, if it sits at one itself.
    pub hook: Option<String>,
    /// The rule as the tool prints it.
    pub text: String,
    /// The command that deletes it.
    pub delete: String,
}

impl Rule {
    /// Whether packets for this host's own sockets may meet this rule.
    fn meets_incoming(&self) -> bool {
        !matches!(self.hook.as_deref(), Some("forward" | "output" | "postrouting"))
    }

    /// Whether it drops (or passes to a chain that may drop) new connections that begin without SYN.
    pub fn drops_new_without_syn(&self) -> bool {
        let text = self.bare();
        self.meets_incoming() && may_drop(&text) && is_about_new(&text) && excludes_syn(&text)
    }

    /// Whether it accepts only connections that begin with a SYN.
    pub fn accepts_only_syn(&self) -> bool {
        let text = self.bare();
        let syn = text.contains("tcp flags syn")
            || text.contains("== syn")
            || text.contains("--syn")
            || text.contains("--tcp-flags fin,syn,rst,ack syn");
        self.meets_incoming() && text.contains("accept") && syn && !excludes_syn(&text)
    }

    /// Whether it sends packets to this port on to another port or address, as far as the text tells: a rule with a named set
    /// or no port at all may. Rules for another address than these do not.
    pub fn translates_port(&self, port: u16, addresses: &[IpAddr]) -> bool {
        let text = self.bare();
        let comes = !matches!(self.hook.as_deref(), Some("output" | "postrouting" | "input" | "forward"));
        let translates = ["dnat", "redirect"].iter().any(|word| text.contains(word));
        // What follows is where it is sent to.
        let matches =
            ["dnat", "redirect"].iter().filter_map(|word| text.split_once(word)).map(|(before, _)| before);
        let matches = matches.min_by_key(|before| before.len()).unwrap_or_default();
        let names = || {
            matches
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                .any(|word| word == port.to_string() || spans(word, port))
        };
        let other_port = matches.contains("dport") && !matches.contains("dport @") && !names();
        let elsewhere = ["daddr ", "-d "].iter().filter_map(|word| word_after(matches, word.trim_end()));
        let elsewhere = elsewhere.filter_map(|word| word.split('/').next()?.parse::<IpAddr>().ok());
        let other_address = elsewhere.into_iter().any(|address| !addresses.contains(&address));
        let other_protocol = matches.contains("udp") && !matches.contains("tcp");
        comes && translates && !(other_port || other_address || other_protocol)
    }

    /// Whether it looks at the state of connections.
    pub fn tracks_connections(&self) -> bool {
        let text = self.bare();
        text.contains("ct ") || text.contains("conntrack") || text.contains("-m state")
    }

    /// Whether it accepts packets to this port, as far as the text tells: a rule with a named set, a
    /// range or no port at all may.
    pub fn may_accept_port(&self, port: u16) -> bool {
        let text = self.bare();
        let names = |part: &str| {
            part.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                .any(|word| word == port.to_string() || spans(word, port))
        };
        let answers_only = text.contains("established") && !is_about_new(&text);
        let local_only = text.contains("\"lo\"") || text.contains("-i lo ");
        let other = ["icmp", "udp"].iter().any(|protocol| text.contains(protocol));
        let accepts = text.contains("accept") || text.contains("jump") || text.contains("-j ");
        let drops = text.contains("drop") || text.contains("reject");
        accepts
            && !(drops || answers_only || local_only || other)
            && (text.contains("dport @") || !text.contains("dport") || names(&text))
    }

    /// Whether it accepts Neighbour Discovery (ICMPv6 types 135 and 136), as far as the text tells. It belongs
    /// to no connection (RFC 4890 4.4.1 asks for such a rule).
    pub fn may_accept_neighbours(&self) -> bool {
        let text = self.bare();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let accepts = has(&["accept", "jump", "goto", "-j ", "-g "]) && !has(&["drop", "reject"]);
        let by_type = has(&["icmpv6 type", "icmpv6-type"]);
        let neighbours = !by_type || has(&["nd-", "neighbo", "135", "136", "@"]);
        let about_others = !has(&["icmpv6", "ipv6-icmp", "icmp6"]) && has(&["tcp", "udp", "icmp", "sctp"]);
        let tracked_only = has(&["established"]) && !has(&["untracked"]);
        let local_only = has(&["\"lo\"", "-i lo "]);
        accepts && neighbours && !(about_others || tracked_only || local_only)
    }

    /// The text in lower case and without comments.
    fn bare(&self) -> String {
        let lower = self.text.to_lowercase();
        match lower.split_once("comment \"") {
            Some((before, rest)) => {
                format!("{before}{}", rest.split_once('"').map_or("", |(_, after)| after))
            }
            None => lower,
        }
    }
}

/// The rules in the output of `nft -a list ruleset`, without the tables of these names (such as
/// `ip6 filter`), which iptables keeps and tells better.
pub(crate) fn parse_nft(listing: &str, told: &[String]) -> Firewall {
    let mut firewall = Firewall::default();
    let mut skip = false;
    let (mut table, mut chain, mut hook) = (String::new(), None::<String>, None);
    for line in listing.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let (body, handle) = line.rsplit_once("# handle ").unwrap_or((line, ""));
        let body = body.trim();
        if let Some(name) = block(body, "table") {
            (table, chain, hook) = (name.to_owned(), None, None);
            skip = told.iter().any(|known| known == name);
        } else if let Some(name) = block(body, "chain") {
            (chain, hook) = (Some(name.to_owned()), None);
        } else if body == "}" {
            chain = None;
        } else if let Some(chain) = chain.as_ref().filter(|_| !skip && !body.is_empty()) {
            if body.starts_with("type ") {
                hook = word_after(body, "hook");
                if hook.as_deref() == Some("input") && body.contains("policy drop") {
                    firewall.drop_by_default.push(table.clone());
                }
                continue;
            }
            firewall.rules.push(Rule {
                table: table.clone(),
                chain: chain.clone(),
                hook: hook.clone(),
                text: body.to_owned(),
                delete: format!("nft delete rule {table} {chain} handle {handle}"),
            });
        }
    }
    firewall
}

/// The rules in the output of `iptables-save` or `ip6tables-save`; `tool` is `iptables` or `ip6tables`.
pub(crate) fn parse_iptables(tool: &str, listing: &str) -> Firewall {
    let mut firewall = Firewall::default();
    let mut table = "filter";
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.starts_with(":INPUT DROP") {
            firewall.drop_by_default.push(format!("{tool} {table}"));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let chain = rule.split_whitespace().next().unwrap_or_default();
            let built_in = ["INPUT", "PREROUTING", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&chain);
            firewall.rules.push(Rule {
                table: format!("{tool} {table}"),
                chain: chain.to_owned(),
                hook: built_in.then(|| chain.to_lowercase()),
                text: line.to_owned(),
                delete: format!("{tool} -t {table} -D {rule}"),
            });
        }
    }
    firewall
}

/// The tables, by nft's names, that the output of `iptables-save` or `ip6tables-save` tells in its stead;
/// none when it is that of the older kind, which nft knows nothing of. A table of which it says that nft alone can list it
/// (with chains that iptables did not make) is told by nft.
pub(crate) fn told_for_nft(tool: &str, listing: &str) -> Vec<String> {
    let family = if tool == "ip6tables" { "ip6" } else { "ip" };
    let names = listing.lines().filter_map(|line| line.strip_prefix('*'));
    let by_nft =
        listing.lines().any(|line| line.starts_with("# Generated by ") && line.contains("(nf_tables)"));
    let is_whole = |name: &&str| {
        let half = format!("# Table `{}' ", name.trim());
        !listing.lines().any(|line| line.starts_with(&half) && line.contains("incompatible"))
    };
    names.filter(|_| by_nft).filter(is_whole).map(|name| format!("{family} {}", name.trim())).collect()
}

/// The name in `KIND NAME {`.
fn block<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    line.strip_prefix(kind)?.strip_prefix(' ')?.strip_suffix('{').map(str::trim)
}

fn word_after(line: &str, word: &str) -> Option<String> {
    line.split_whitespace().skip_while(|w| *w != word).nth(1).map(str::to_owned)
}

/// Whether the rule drops, or passes to a chain that may.
fn may_drop(text: &str) -> bool {
    const HARMLESS: [&str; 6] = ["accept", "return", "log", "nflog", "mark", "connmark"];
    match text.split_whitespace().skip_while(|word| !matches!(*word, "-j" | "-g")).nth(1) {
        Some(target) => !HARMLESS.contains(&target),
        None => text.split_whitespace().any(|word| matches!(word, "drop" | "reject" | "jump" | "goto")),
    }
}

fn is_about_new(text: &str) -> bool {
    let by_state = ["ct state", "--ctstate", "--state"].iter().any(|word| text.contains(word));
    let not_new = ["state != new", "! --ctstate new", "! --state new"].iter().any(|word| text.contains(word));
    by_state && !not_new && text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "new")
}

/// Whether the rule is about packets without SYN, in the spellings of nft and iptables-save.
fn excludes_syn(text: &str) -> bool {
    let nft = text.contains("flags")
        && ["!= syn", "!= 0x2", "! syn", "& syn == 0", "& (syn) == 0"].iter().any(|word| text.contains(word));
    let iptables = text.contains("! --syn")
        || text.contains("! --tcp-flags fin,syn,rst,ack syn")
        || text.contains("! --tcp-flags syn,rst,ack syn");
    nft || iptables
}

/// Whether a table's rules meet packets of this family, by the table's name.
pub(crate) fn meets(table: &str, ipv6: bool) -> bool {
    match table.split(' ').next() {
        Some("ip" | "iptables") => !ipv6,
        Some("ip6" | "ip6tables") => ipv6,
        _ => true,
    }
}

/// Whether a word such as `80-90` is a range that holds the port.
fn spans(word: &str, port: u16) -> bool {
    let Some((low, high)) = word.split_once('-') else { return false };
    matches!((low.parse::<u16>(), high.parse::<u16>()), (Ok(low), Ok(high)) if (low..=high).contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        Rule {
            table: "inet filter".into(),
            chain: "input".into(),
            hook: Some("input".into()),
            text: text.into(),
            delete: String::new(),
        }
    }

    #[test]
    fn knows_the_spellings_of_new_must_be_syn() {
        let dropping = [
            "tcp flags != syn ct state new drop",
            "tcp flags != syn / fin,syn,rst,ack ct state new counter packets 0 bytes 0 drop",
            "tcp flags & (fin | syn | rst | ack) != syn ct state new log prefix \"x\" drop",
            "ct state { new, untracked } tcp flags ! syn reject with tcp reset",
            "tcp flags != syn ct state new jump strange",
            "-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP",
            "-A INPUT -p tcp ! --syn -m state --state NEW -j LOGDROP",
        ];
        for text in dropping {
            assert!(rule(text).drops_new_without_syn(), "{text}");
        }
        let harmless = [
            "ct state invalid drop",
            "ct state new drop",
            "tcp flags syn ct state new drop",
            "tcp flags != syn ct state established accept",
            "tcp dport 80 ct state new accept comment \"not != syn drop\"",
            "-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j LOG",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ];
        for text in harmless {
            assert!(!rule(text).drops_new_without_syn(), "{text}");
        }
        let forwarded = Rule { hook: Some("forward".into()), ..rule(dropping[0]) };
        assert!(!forwarded.drops_new_without_syn(), "only packets for this host matter");
    }

    #[test]
    fn knows_rules_that_accept_only_syn() {
        assert!(rule("tcp dport 80 tcp flags syn ct state new accept").accepts_only_syn());
        assert!(rule("tcp flags & (fin | syn | rst | ack) == syn accept").accepts_only_syn());
        assert!(rule("-A INPUT -p tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT").accepts_only_syn());
        assert!(!rule("tcp dport 80 ct state new accept").accepts_only_syn());
        assert!(!rule("tcp flags != syn accept").accepts_only_syn());
    }

    #[test]
    fn knows_which_rules_may_accept_a_port() {
        for text in [
            "tcp dport 80 accept",
            "tcp dport { 80, 443 } ct state new accept",
            "tcp dport 70-90 accept",
            "tcp dport @web accept",
            "ip saddr 10.0.0.0/24 accept",
            "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT",
        ] {
            assert!(rule(text).may_accept_port(80), "{text}");
        }
        for text in [
            "tcp dport 22 accept",
            "udp dport 80 accept",
            "tcp dport 80 drop",
            "ct state established,related accept",
            "iifname \"lo\" accept",
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ] {
            assert!(!rule(text).may_accept_port(80), "{text}");
        }
    }

    #[test]
    fn knows_which_rules_may_accept_neighbours() {
        for text in [
            "meta l4proto ipv6-icmp accept",
            "ip6 nexthdr icmpv6 accept",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
            "icmpv6 type @needed accept",
            "ip protocol { icmp, ipv6-icmp } accept",
            "ip6 saddr fe80::/10 accept",
            "jump more",
            "-A INPUT -p ipv6-icmp -j ACCEPT",
            "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
            "ct state established,related,untracked accept",
        ] {
            assert!(rule(text).may_accept_neighbours(), "{text}");
        }
        for text in [
            "icmpv6 type echo-request accept",
            "icmp type echo-request accept",
            "ip protocol icmp accept",
            "tcp dport 80 accept",
            "ct state established,related accept",
            "iifname \"lo\" accept",
            "meta l4proto ipv6-icmp drop",
            "counter packets 0 bytes 0",
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT",
        ] {
            assert!(!rule(text).may_accept_neighbours(), "{text}");
        }
    }

    #[test]
    fn reads_the_listing_of_nft() {
        let listing = "table inet f { # handle 1\n\
            \tset web { # handle 9\n\t\ttype inet_service\n\t\telements = { 80 }\n\t}\n\
            \tchain input { # handle 1\n\
            \t\ttype filter hook input priority filter; policy drop;\n\
            \t\ttcp flags != syn ct state new drop # handle 2\n\t}\n\
            \tchain other { # handle 3\n\t\tct state invalid drop # handle 4\n\t}\n}\n\
            table ip filter { # handle 2\n\tchain INPUT { # handle 1\n\
            \t\ttype filter hook input priority filter; policy accept;\n\
            \t\tct state new xt match \"tcp\" drop # handle 2\n\t}\n}\n\
            # Warning: table ip filter is managed by iptables-nft, do not touch!\n";
        let all = parse_nft(listing, &[]);
        assert_eq!(all.drop_by_default, ["inet f"]);
        assert_eq!(all.rules.len(), 3);
        assert_eq!(all.rules[0].delete, "nft delete rule inet f input handle 2");
        assert_eq!(all.rules[0].text, "tcp flags != syn ct state new drop");
        assert_eq!(all.rules[0].hook.as_deref(), Some("input"));
        assert_eq!((all.rules[1].chain.as_str(), &all.rules[1].hook), ("other", &None));
        assert_eq!(all.rules[2].table, "ip filter");
        assert_eq!(parse_nft(listing, &["ip filter".to_owned()]).rules.len(), 2);
        assert_eq!(parse_nft(listing, &["ip6 filter".to_owned()]), all, "only ip6tables-save told its own");
    }

    #[test]
    fn reads_the_listing_of_iptables() {
        let listing = "# Generated\n*filter\n:INPUT DROP [0:0]\n:LOGDROP - [0:0]\n\
            -A INPUT -p tcp ! --syn -m state --state NEW -j DROP\n-A LOGDROP -j DROP\nCOMMIT\n";
        let firewall = parse_iptables("iptables", listing);
        assert_eq!(firewall.drop_by_default, ["iptables filter"]);
        assert_eq!(
            firewall.rules[0].delete,
            "iptables -t filter -D INPUT -p tcp ! --syn -m state --state NEW -j DROP"
        );
        assert_eq!(firewall.rules[0].hook.as_deref(), Some("input"));
        assert_eq!(firewall.rules[1].hook, None);
        let firewall = parse_iptables("ip6tables", listing);
        assert_eq!(firewall.drop_by_default, ["ip6tables filter"]);
        assert!(firewall.rules.iter().all(|rule| rule.delete.starts_with("ip6tables -t filter -D ")));
    }

    #[test]
    fn a_table_of_iptables_is_told_once() {
        let listing = |kind: &str| {
            format!(
                "# Generated by ip6tables-save v1.8.9 ({kind}) on Sun\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n*nat\n"
            )
        };
        assert_eq!(told_for_nft("ip6tables", &listing("nf_tables")), ["ip6 filter", "ip6 nat"]);
        assert_eq!(told_for_nft("iptables", &listing("nf_tables")), ["ip filter", "ip nat"]);
        assert_eq!(told_for_nft("iptables", &listing("legacy")), Vec::<String>::new());
        let half = "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.\n";
        assert_eq!(told_for_nft("iptables", &(half.to_owned() + &listing("nf_tables"))), ["ip filter"]);
    }

    #[test]
    fn a_table_meets_its_own_family_alone() {
        for (table, v4, v6) in [
            ("ip filter", true, false),
            ("iptables filter", true, false),
            ("ip6 filter", false, true),
            ("ip6tables filter", false, true),
            ("inet filter", true, true),
            ("netdev guard", true, true),
        ] {
            assert_eq!((meets(table, false), meets(table, true)), (v4, v6), "{table}");
        }
    }

    #[test]
    fn any_text_is_parsed_without_harm() {
        for text in
            ["", "}", "table", "table {", "chain x {\n}\n}", "-A", "*", "# handle", "table a {\nchain b {\nc"]
        {
            parse_nft(text, &[]);
            parse_iptables("iptables", text);
        }
    }
}
