//! Draws the screen.

use super::screen::{Gauge, Screen};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

/// Whether there are colours. Nothing is said by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// False leaves bold and reverse.
    pub color: bool,
}

impl Theme {
    /// Colours, unless `NO_COLOR` is set and not empty (no-color.org).
    #[must_use]
    pub fn from_environment() -> Self {
        Self { color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn color(self, style: Style, color: Color) -> Style {
        if self.color { style.fg(color) } else { style }
    }

    fn title(self) -> Style {
        self.color(Style::new().add_modifier(Modifier::BOLD), Color::Cyan)
    }

    fn alarm(self) -> Style {
        self.color(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED), Color::Red)
    }

    fn good(self) -> Style {
        self.color(Style::new().add_modifier(Modifier::BOLD), Color::Green)
    }

    fn bar(self, ratio: f64) -> Style {
        let color = match ratio {
            ..0.8 => Color::Green,
            ..0.95 => Color::Yellow,
            _ => Color::Red,
        };
        self.color(Style::new(), color)
    }
}

/// Draws the screen into the whole frame. Sections shrink to what fits and say how much they leave out.
pub fn render(frame: &mut Frame<'_>, screen: &Screen, theme: Theme) {
    let port_lines = screen.ports.len() as u16;
    // Head 3, gauges and a blank line, a blank line behind the ports, the foot; 8 for the lower half.
    let room = frame.area().height.saturating_sub(3 + 4 + 1 + 1 + 8).max(2);
    let [head, tables, ports, lower, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(screen.tables.len() as u16 + 1),
        Constraint::Length(port_lines.min(room) + 1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Fill(1)]).spacing(2).areas(lower);

    render_head(frame, head, screen, theme);
    let gauges = screen.tables.iter().map(|gauge| gauge_line(gauge, 30, 10, theme)).collect();
    show(frame, tables, gauges);
    show(frame, ports, titled(&screen.ports, ports.height.saturating_sub(1), theme));
    render_shares(frame, left, screen, theme);
    show(frame, right, titled(&screen.drops, right.height, theme));
    render_foot(frame, foot, screen, theme);
}

fn show(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    frame.render_widget(Paragraph::new(lines), area);
}

fn render_head(frame: &mut Frame<'_>, area: Rect, screen: &Screen, theme: Theme) {
    let state = if screen.ready { theme.good() } else { theme.alarm() };
    let name = Line::from(vec![
        Span::styled("turnpike ", theme.title()),
        Span::raw(screen.host.as_str()),
        Span::raw("  "),
        Span::styled(screen.state, state),
        Span::raw("  "),
        Span::raw(screen.about.as_str()),
    ]);
    show(frame, area, vec![name, Line::raw(screen.totals.as_str())]);
}

/// Workers, then pools, one half of the area each at most.
fn render_shares(frame: &mut Frame<'_>, area: Rect, screen: &Screen, theme: Theme) {
    let pools = (screen.pools.len() as u16 + 1).min((area.height / 2).max(2));
    let workers = area.height.saturating_sub(pools + 1);
    let [top, bottom] = Layout::vertical([
        Constraint::Length((screen.workers.len() as u16 + 1).min(workers) + 1),
        Constraint::Fill(1),
    ])
    .areas(area);
    let section = |title, gauges: &[Gauge], height: u16| {
        let mut lines = vec![Line::styled(title, theme.title())];
        let room = usize::from(height.saturating_sub(1));
        let fits = if gauges.len() <= room { room } else { room.saturating_sub(1) };
        lines.extend(gauges.iter().take(fits).map(|gauge| gauge_line(gauge, 12, 10, theme)));
        if gauges.len() > fits {
            lines.push(Line::raw(format!("... {} more", gauges.len() - fits)));
        }
        lines
    };
    show(frame, top, section("WORKERS BUSY", &screen.workers, top.height.saturating_sub(1)));
    show(frame, bottom, section("POOLS FULLEST PROTOCOL", &screen.pools, bottom.height));
}

fn gauge_line(gauge: &Gauge, width: usize, label: usize, theme: Theme) -> Line<'static> {
    let name: String = gauge.label.chars().take(label).collect();
    Line::from(vec![
        Span::raw(format!("{name:<label$} ")),
        Span::styled(gauge.bar(width), theme.bar(gauge.ratio)),
        Span::raw(format!(" {:>6}  {}", gauge.percent(), gauge.detail)),
    ])
}

/// Lines with their titles, cut to `height`; the last one says how many are left out.
fn titled(lines: &[String], height: u16, theme: Theme) -> Vec<Line<'_>> {
    let height = usize::from(height);
    let fits = if lines.len() <= height { height } else { height.saturating_sub(1) };
    let mut shown: Vec<_> =
        lines
            .iter()
            .take(fits)
            .enumerate()
            .map(|(index, line)| {
                if index == 0 { Line::styled(line.as_str(), theme.title()) } else { Line::raw(line.as_str()) }
            })
            .collect();
    if lines.len() > fits {
        shown.push(Line::raw(format!("... {} more", lines.len() - fits)));
    }
    shown
}

fn render_foot(frame: &mut Frame<'_>, area: Rect, screen: &Screen, theme: Theme) {
    let foot = match &screen.fault {
        Some(fault) => Line::styled(format!(" as of {}: {fault} ", screen.time), theme.alarm()),
        None if !screen.balanced => Line::styled(format!(" balance {} ", screen.balance), theme.alarm()),
        None => Line::raw(format!("q quits   {}   balance {}", screen.time, screen.balance)),
    };
    show(frame, area, vec![foot]);
}
