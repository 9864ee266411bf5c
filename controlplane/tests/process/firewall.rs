//! Static rules and their hits, as every worker publishes them.

use crate::support::{RULES, Site, until};
use turnpike_api::{FirewallRuleData, Request};

#[test]
fn static_rules_are_shown_with_the_hits_of_all_workers() {
    let mut site = Site::new();
    site.configure(&format!(
        "{RULES}\n[[rule]]\nfrom = \"inside\"\nprotocol = \"tcp\"\ndestination_ports = \"25\"\naction = \"reject\"\n\n[[rule]]\nprotocol = \"icmp\"\naction = \"accept\"\n"
    ));
    site.start();
    let rules = || site.ask::<Vec<FirewallRuleData>>(&Request::Firewall);
    let without = rules();
    assert_eq!(without.iter().map(|rule| (rule.rule, rule.hits)).collect::<Vec<_>>(), [(1, None), (2, None)]);
    assert_eq!((without[0].from.as_deref(), without[0].to.as_deref()), (Some("inside"), None));
    assert_eq!(without[0].destination_ports.map(|ports| ports.to_string()), Some("25".into()));
    let fake = site.dataplane();
    fake.with(|state| state.hits = vec![7, 1 << 40]);
    let hits = until("hits", || {
        let hits: Vec<_> = rules().iter().filter_map(|rule| rule.hits).collect();
        (hits.len() == 2).then_some(hits)
    });
    assert_eq!(hits, [14, 1 << 41]);
}
