//! Finds the installed libdpdk, generates the bindings and compiles the shim.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// Drivers are plugins that EAL loads from its own directory: only these are linked.
const LIBRARIES: [&str; 7] =
    ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_net", "rte_kvargs"];

const FUNCTIONS: &str = "turnpike_.*\
    |rte_eal_(init|cleanup)\
    |rte_(version|strerror|get_tsc_hz)\
    |rte_thread_(register|unregister)\
    |rte_malloc_get_socket_stats\
    |rte_dev_(probe|remove|name)\
    |rte_mempool_(free|avail_count|in_use_count)\
    |rte_pktmbuf_(pool_create|free_bulk)\
    |rte_eth_dev_(configure|start|stop|close|info_get|get_port_by_name|set_mtu|get_mtu|adjust_nb_rx_tx_desc\
    |default_mac_addr_set|socket_id|set_link_up|rss_reta_update|rss_reta_query|rss_hash_conf_get\
    |rss_hash_update)\
    |rte_eth_(rx|tx)_queue_setup\
    |rte_eth_(macaddr_get|link_get_nowait|stats_get|promiscuous_enable|promiscuous_get|allmulticast_enable\
    |allmulticast_get)";

const TYPES: &str = "rte_(mbuf|mempool|eth_conf|eth_dev_info|eth_rxconf|eth_txconf|eth_link|eth_stats\
    |ether_addr|malloc_socket_stats|eth_rss_reta_entry64|eth_rss_conf|flow)|turnpike_match";

const CONSTANTS: &str = "TURNPIKE_.*|RTE_MAX_ETHPORTS|RTE_ETH_RETA_GROUP_SIZE|RTE_MEMPOOL_CACHE_MAX_SIZE\
    |RTE_ETHER_(HDR|CRC|MIN)_LEN|RTE_ETH_SPEED_NUM_UNKNOWN";

fn main() {
    println!("cargo::rerun-if-changed=src/dpdk.h");
    println!("cargo::rerun-if-changed=src/shim.c");

    // pkg-config's own list would link some fifty libraries, most of which nothing here calls.
    let library = match pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .env_metadata(true)
        .probe("libdpdk")
    {
        Ok(library) => library,
        Err(error) => {
            eprintln!(
                "libdpdk 22.11 or later was not found.\n\
                 On Debian or Ubuntu: apt-get install libdpdk-dev libclang-dev pkg-config\n\n{error}"
            );
            std::process::exit(1);
        }
    };
    for path in &library.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for name in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={name}");
    }

    // DPDK's headers need its -include and -march too, which the crate does not hand out.
    let flags = cflags();
    let mut shim = cc::Build::new();
    shim.file("src/shim.c").warnings(true).opt_level(3);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("turnpike_dpdk_shim");

    let bindings = bindgen::Builder::default()
        .header("src/dpdk.h")
        .clang_args(&flags)
        .allowlist_function(FUNCTIONS)
        .allowlist_type(TYPES)
        .allowlist_var(CONSTANTS)
        .use_core()
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .wrap_unsafe_ops(true)
        .generate();
    let bindings = match bindings {
        Ok(bindings) => bindings.to_string(),
        Err(error) => {
            eprintln!(
                "bindgen could not read DPDK's headers. It needs libclang: apt-get install libclang-dev\n\n{error}"
            );
            std::process::exit(1);
        }
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("bindings.rs"), bindings).expect("OUT_DIR is writable");
}

fn cflags() -> Vec<String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(program)
        .args(["--cflags", "libdpdk"])
        .output()
        .expect("pkg-config answered a moment ago");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}
