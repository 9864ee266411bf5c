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
    // The reasons take what they need, the bars what is left, but no less than two fifths.
    let reasons = screen.drops.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let reasons = u16::try_from(reasons).unwrap_or(u16::MAX).min(lower.width / 5 * 3);
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(reasons)]).spacing(2).areas(lower);

    render_head(frame, head, screen, theme);
    let form = Form { label: 9, bar: 30 };
    let gauges = screen.tables.iter().map(|gauge| form.line(gauge, theme)).collect();
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

/// Workers, then pools, which take less than half of the area.
fn render_shares(frame: &mut Frame<'_>, area: Rect, screen: &Screen, theme: Theme) {
    let pools = (screen.pools.len() as u16 + 1).min(area.height.saturating_sub(1) / 2);
    let workers = (screen.workers.len() as u16 + 1).min(area.height.saturating_sub(pools + 1));
    let [top, _, bottom] =
        Layout::vertical([Constraint::Length(workers), Constraint::Length(1), Constraint::Length(pools)])
            .areas(area);
    let form = Form::fitting(screen.workers.iter().chain(&screen.pools), area.width);
    let section = |title, gauges: &[Gauge], height: u16| {
        let mut lines = vec![Line::styled(title, theme.title())];
        let room = usize::from(height.saturating_sub(1));
        let mut shown: Vec<_> = gauges.iter().collect();
        if gauges.len() > room {
            // Where not all fit, the highest are worth a line.
            shown.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
            shown.truncate(room.saturating_sub(1));
        }
        lines.extend(shown.iter().map(|gauge| form.line(gauge, theme)));
        if gauges.len() > shown.len() {
            lines.push(Line::raw(format!("... {} more", gauges.len() - shown.len())));
        }
        lines
    };
    show(frame, top, section("WORKERS: BUSY, PKTS/S", &screen.workers, workers));
    show(frame, bottom, section("POOLS: PORTS IN USE", &screen.pools, pools));
}

/// Widths of a gauge's parts, characters.
#[derive(Clone, Copy)]
struct Form {
    label: usize,
    /// 0 for none.
    bar: usize,
}

impl Form {
    /// Blanks and the percentage.
    const FIXED: usize = 10;

    /// Labels and numbers first; the bar takes what is left, if that is worth it.
    fn fitting<'a>(gauges: impl Iterator<Item = &'a Gauge>, width: u16) -> Self {
        let widths = gauges.map(|gauge| (gauge.label.chars().count(), gauge.detail.chars().count()));
        let (label, detail) =
            widths.fold((0, 0), |(label, detail), widths| (widths.0.max(label), widths.1.max(detail)));
        let room = usize::from(width).saturating_sub(Self::FIXED + detail);
        let label = label.min(room.max(Self::FIXED));
        let bar = room.saturating_sub(label).min(20);
        Self { label, bar: if bar < 5 { 0 } else { bar } }
    }

    /// A gauge in one line; a label too long ends in `~`.
    fn line(self, gauge: &Gauge, theme: Theme) -> Line<'static> {
        let width = self.label;
        let mut label = gauge.label.clone();
        if label.chars().count() > width {
            label = label.chars().take(width.saturating_sub(1)).chain(['~']).collect();
        }
        let mut spans = vec![Span::raw(format!("{label:<width$} "))];
        if self.bar > 0 {
            spans.push(Span::styled(gauge.bar(self.bar), theme.bar(gauge.ratio)));
        }
        spans.push(Span::raw(format!(" {:>6}  {}", gauge.percent(), gauge.detail)));
        Line::from(spans)
    }
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
