//! The live screen on a terminal of memory.

use crate::support::{check_golden, example};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use turnpike_api::{DropData, Envelope, PoolFill, PortRate, StatusData, WorkerLoad};
use turnpike_cli::top::screen::{Gauge, Screen};
use turnpike_cli::top::view::{Theme, render};

fn draw(screen: &Screen, width: u16, height: u16, theme: Theme) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| render(frame, screen, theme)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let row = |y| {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        line.trim_end().to_owned() + "\n"
    };
    (0..buffer.area.height).map(row).collect()
}

const COLOR: Theme = Theme { color: true };
const PLAIN: Theme = Theme { color: false };

/// A box with more of everything than fits.
fn crowded() -> Envelope<StatusData> {
    let mut envelope = example::<StatusData>("status");
    let status = &mut envelope.data;
    let port = status.ports[0].clone();
    status.ports = (0..16).map(|n| PortRate { name: format!("port{n}"), ..port.clone() }).collect();
    status.workers = (0..64)
        .map(|worker| WorkerLoad {
            worker,
            packets_per_second: 9_999_999,
            busy_ratio: f64::from(worker) / 63.0,
        })
        .collect();
    let pool = status.pools[0].clone();
    status.pools =
        (0..64).map(|n| PoolFill { name: format!("a pool with a long name {n}"), ..pool.clone() }).collect();
    status.drops.top = (0..10)
        .map(|n| DropData {
            reason: format!("reason_of_some_length_{n}"),
            packets: 1 << (4 * n),
            packets_per_second: n,
        })
        .collect();
    envelope
}

#[test]
fn eighty_by_twenty_four() {
    let screen = Screen::new(&example("status"));
    check_golden("top-80x24.txt", &text(&draw(&screen, 80, 24, COLOR)));
}

#[test]
fn what_does_not_fit_is_counted() {
    let screen = Screen::new(&crowded());
    check_golden("top-80x24-crowded.txt", &text(&draw(&screen, 80, 24, COLOR)));
    check_golden("top-120x50-crowded.txt", &text(&draw(&screen, 120, 50, COLOR)));
}

#[test]
fn a_fault_keeps_the_last_data_and_says_so() {
    let mut screen = Screen::new(&example("status"));
    screen.fault = Some("the control plane does not answer".into());
    let shown = text(&draw(&screen, 80, 24, COLOR));
    assert!(shown.contains("as of 2026-11-21 03:20:00Z: the control plane does not answer"), "{shown}");
    assert!(shown.contains("48,211"), "{shown}");
}

#[test]
fn a_broken_balance_is_shown() {
    let mut envelope = example::<StatusData>("status");
    envelope.data.conservation.ok = false;
    let shown = text(&draw(&Screen::new(&envelope), 80, 24, PLAIN));
    assert!(shown.contains("balance BROKEN"), "{shown}");
}

#[test]
fn no_color_has_the_same_text_and_no_color() {
    for envelope in [example("status"), crowded()] {
        let screen = Screen::new(&envelope);
        let (color, plain) = (draw(&screen, 80, 24, COLOR), draw(&screen, 80, 24, PLAIN));
        assert_eq!(text(&color), text(&plain));
        assert!(color.content.iter().any(|cell| cell.fg != Color::Reset));
        assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    }
}

#[test]
fn no_size_panics() {
    let (example, crowded) = (Screen::new(&example("status")), Screen::new(&crowded()));
    for width in (1..=100).step_by(9) {
        for height in 1..=40 {
            draw(&example, width, height, COLOR);
            draw(&crowded, width, height, COLOR);
        }
    }
}

#[test]
fn a_box_that_just_started_shows_zeros() {
    let mut envelope = example::<StatusData>("status");
    let status = &mut envelope.data;
    status.ports.clear();
    status.workers.clear();
    status.pools.clear();
    status.drops.top.clear();
    status.flows = Default::default();
    status.buffers = Default::default();
    let shown = text(&draw(&Screen::new(&envelope), 80, 24, COLOR));
    assert!(shown.contains("0 of 0"), "{shown}");
}

#[test]
fn bars() {
    let bar = |ratio, width| Gauge { label: String::new(), ratio, detail: String::new() }.bar(width);
    assert_eq!(bar(0.0, 6), "[    ]");
    assert_eq!(bar(0.001, 6), "[|   ]");
    assert_eq!(bar(0.5, 6), "[||  ]");
    assert_eq!(bar(1.0, 6), "[||||]");
    assert_eq!(bar(7.0, 6), "[||||]");
    assert_eq!(bar(f64::NAN, 6), "[    ]");
    assert_eq!(bar(0.5, 0), "[]");
}
