//! RFC 7422 section 2: forward, reverse, and the example of section 2.3.

use proptest::prelude::*;
use std::collections::HashSet;
use turnpike_abi::deterministic::{Holder, Plan};
use turnpike_abi::table::PoolRecord;
use turnpike_abi::{Address, steering};

fn pool(first: [u8; 4], last: [u8; 4], dynamic: u16) -> PoolRecord {
    PoolRecord {
        port_first: 1024,
        port_last: 65535,
        flags: PoolRecord::DETERMINISTIC,
        inside_first: first,
        inside_last: last,
        dynamic,
        ..PoolRecord::default()
    }
}

/// DET-7: the table of RFC 7422 section 2.3.
#[test]
fn det_7_the_example_of_the_rfc() {
    let plan = Plan::new(&pool([198, 51, 100, 1], [198, 51, 100, 14], 2), 1, 1).unwrap();
    assert_eq!(plan.ports(), 4032);
    for host in 1..=14u16 {
        let place = plan.forward([198, 51, 100, host as u8]).unwrap();
        let first = 1024 + (host - 1) * 4032;
        assert_eq!(plan.runs(place).collect::<Vec<_>>(), [(first, first + 4031)]);
    }
    assert_eq!(plan.reverse(0, 2001), Holder::Inside([198, 51, 100, 1]));
    assert_eq!(plan.reverse(0, 9087), Holder::Inside([198, 51, 100, 2]));
    assert_eq!(plan.reverse(0, 57_471), Holder::Inside([198, 51, 100, 14]));
    for port in [57_472, 58_204, 65_535] {
        assert_eq!(plan.reverse(0, port), Holder::Dynamic);
    }
    // DET-3: system ports are not given out.
    assert_eq!(plan.reverse(0, 1023), Holder::Reserved);
    assert_eq!(plan.forward([198, 51, 100, 0]), None);
    assert_eq!(plan.forward([198, 51, 100, 15]), None);
}

#[test]
fn what_does_not_fit_is_refused() {
    let all = [10, 0, 0, 0];
    assert!(Plan::new(&pool(all, [10, 0, 7, 255], 0), 1, 1).is_err());
    assert!(Plan::new(&pool(all, [10, 0, 3, 239], 0), 1, 1).is_ok());
    assert!(Plan::new(&pool([10, 0, 0, 2], [10, 0, 0, 1], 0), 1, 1).is_err());
    assert!(Plan::new(&pool(all, [10, 0, 0, 1], 0), 0, 1).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// DET-2: reverse(forward(x)) == x; no two inside addresses share a port; every port lies at the owner.
    #[test]
    fn det_2_reverse_undoes_forward(
        first in 0x0a00_0000u32..0x0a00_ffff, hosts in 1u32..600, addresses in 1u32..9, workers in 1u8..9,
        dynamic in 0u16..20, port_first in 1u16..5000, port_last in 30_000u16..=65_535,
    ) {
        let record = PoolRecord {
            port_first, port_last, ..pool(first.to_be_bytes(), (first + hosts - 1).to_be_bytes(), dynamic)
        };
        let Ok(plan) = Plan::new(&record, addresses, workers) else { return Ok(()) };
        let mut taken = HashSet::new();
        for host in first..first + hosts {
            let inside = host.to_be_bytes();
            let place = plan.forward(inside).unwrap();
            prop_assert!(place.address < addresses);
            let owner = steering::owner_of_inside(Address::v4(inside), workers);
            let mut ports = 0;
            for (low, high) in plan.runs(place) {
                prop_assert!(low >= port_first && high <= port_last);
                ports += u32::from(high - low) + 1;
                for port in [low, low.midpoint(high), high] {
                    prop_assert_eq!(plan.reverse(place.address, port), Holder::Inside(inside));
                    prop_assert_eq!(steering::owner_of_port(port, workers), owner);
                }
                prop_assert!(taken.insert((place.address, low)));
            }
            prop_assert_eq!(ports, u32::from(plan.ports()));
        }
    }
}
