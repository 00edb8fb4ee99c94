//! The demo as a picture of characters: what each peer saw over time, one column a slice, and a table.
//!
//! Both panels share one scale and one time axis, so that the wall of refused requests without holdoff and the short
//! bursts with it stand above each other.

use std::time::Duration;

use super::figures::{Figures, Mark, Plan, Side, seconds};
use super::peer::{SLICE, Slice};

/// The height of a panel.
const ROWS: u64 = 4;

/// How many lines [`panels`] has.
pub(super) const HEIGHT: u16 = 17;

/// The width of what stands before the first column.
const MARGIN: usize = 10;

/// The width of running text.
const WIDTH: usize = 78;

/// What one place of a panel shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Good,
    Limited,
    Silence,
    Nothing,
}

impl Cell {
    fn paint(self, colour: bool, onto: &mut String) {
        let (text, code) = match self {
            Self::Good => ("█", "32"),
            Self::Limited => ("▒", "31"),
            Self::Silence => ("·", "2"),
            Self::Nothing => (" ", "0"),
        };
        if colour && self != Self::Nothing {
            onto.push_str(&format!("\u{1b}[{code}m{text}\u{1b}[0m"));
        } else {
            onto.push_str(text);
        }
    }
}

/// What is going to happen.
pub(super) fn story(plan: &Plan) -> Vec<String> {
    let (window, every, length) = (plan.window.as_secs(), plan.every.as_millis(), plan.length.as_secs());
    let text = format!(
        "A peer allows {} requests in {window} s. {} nodes ask it every {every} ms each, whatever it answers. Beyond its \
         limit it says 429 with `Retry-After: {window}`, and who asks again too soon starts the {window} s anew. {length} s \
         of that follow, without and with holdoff. Nothing leaves this machine; a second here stands for a minute in life.",
        plan.limit, plan.nodes
    );
    let mut lines = wrap(&text, WIDTH);
    lines.push(String::new());
    lines
}

/// Both panels and their legend: always [`HEIGHT`] lines.
pub(super) fn panels(figures: &Figures, colour: bool) -> Vec<String> {
    let unit = unit(figures);
    let mut lines = panel("WITHOUT holdoff", &figures.without, figures, unit, colour);
    lines.push(axis(figures));
    lines.push(String::new());
    lines.extend(panel("WITH holdoff", &figures.with, figures, unit, colour));
    lines.push(state_line(figures));
    lines.push(axis(figures));
    lines.push(String::new());
    let mut legend = String::new();
    let meanings =
        [(Cell::Good, " 200 good   "), (Cell::Limited, " 429 refused   "), (Cell::Silence, " left alone   ")];
    for (cell, text) in meanings {
        cell.paint(colour, &mut legend);
        legend.push_str(text);
    }
    legend.push_str(&format!("(a block: {unit} or fewer in {} s)", SLICE.as_secs_f64()));
    lines.push(legend);
    lines.push("- clear: requests pass  = cooling: holdoff answers  ? probe: one tests the peer".to_owned());
    lines
}

/// How many requests a block stands for: the same for both sides, and steady while the run lasts.
fn unit(figures: &Figures) -> u64 {
    let Plan { nodes, every, .. } = figures.plan;
    let turns = SLICE.as_millis().checked_div(every.as_millis()).unwrap_or(1);
    let expected = u64::from(nodes).saturating_mul(u64::try_from(turns).unwrap_or(1));
    let sides = figures.without.books.slices.iter().chain(&figures.with.books.slices);
    let highest = sides.map(|slice| slice.requests()).max().unwrap_or_default();
    // A turn more than expected falls into a slice now and then; that is no reason to change the scale.
    let most = if highest > expected.saturating_add(u64::from(nodes)) { highest } else { expected };
    most.div_ceil(ROWS).max(1)
}

fn panel(name: &str, side: &Side, figures: &Figures, unit: u64, colour: bool) -> Vec<String> {
    let Slice { good, limited } = side.books.total;
    let mut lines =
        vec![format!("{name}: {} requests at the peer, {good} good, {limited} refused", side.books.total.requests())];
    for row in (1..=ROWS).rev() {
        let label = if row == ROWS { "the peer |" } else { "|" };
        let label = if row.saturating_add(1) == ROWS { "saw |" } else { label };
        let mut line = format!("{label:>MARGIN$}");
        for index in 0..figures.slices() {
            let begun = index < figures.slices_begun();
            let slice = side.books.slices.get(index).copied().unwrap_or_default();
            if begun { cell(slice, row, unit) } else { Cell::Nothing }.paint(colour, &mut line);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// What a row, 1 at the bottom, shows of a slice: good answers below, refused ones on top; whatever there was is seen.
fn cell(slice: Slice, row: u64, unit: u64) -> Cell {
    if slice.requests() == 0 {
        return if row == 1 { Cell::Silence } else { Cell::Nothing };
    }
    let blocks = |requests: u64| requests.div_ceil(unit).min(ROWS);
    let both = if slice.good > 0 && slice.limited > 0 { 2 } else { 1 };
    let height = blocks(slice.requests()).max(both);
    // The smaller part keeps a block of its own; the larger part gets the rest.
    let good = if slice.good <= slice.limited {
        blocks(slice.good).min(height.saturating_sub(u64::from(slice.limited > 0)))
    } else {
        height.saturating_sub(blocks(slice.limited).min(height.saturating_sub(1)))
    };
    if row <= good {
        Cell::Good
    } else if row <= height {
        Cell::Limited
    } else {
        Cell::Nothing
    }
}

/// What holdoff did, below what the peer saw.
fn state_line(figures: &Figures) -> String {
    let mut line = format!("{:>MARGIN$}", "holdoff |");
    for index in 0..figures.slices_begun() {
        line.push(match figures.watch.marks.get(index).or(figures.watch.marks.last()) {
            None | Some(Mark::Clear) => '-',
            Some(Mark::Cooling) => '=',
            Some(Mark::Probe) => '?',
        });
    }
    line
}

/// A mark every five seconds.
fn axis(figures: &Figures) -> String {
    let mut line = " ".repeat(MARGIN);
    let step = Duration::from_secs(5);
    let mut at = Duration::ZERO;
    while at < figures.plan.length {
        line.push_str(&format!("{:<10}", format!("{} s", at.as_secs())));
        at = at.saturating_add(step);
    }
    line.trim_end().to_owned()
}

/// The figures side by side, and what follows from them.
pub(super) fn table(figures: &Figures) -> Vec<String> {
    let Figures { plan, elapsed, without, with, watch } = figures;
    let sides = |of: fn(&Side) -> u64| (of(without).to_string(), of(with).to_string());
    let recovered = |side: &Side| match (side.books.first_limited, side.books.recovery()) {
        (None, _) => "no 429 at all".to_owned(),
        (_, Some(time)) => seconds(time),
        (_, None) => format!("never in {} s", plan.length.as_secs()),
    };
    let silence = |side: &Side| seconds(side.books.longest_silence(*elapsed));
    let own = |text: String| ("-".to_owned(), text);
    let mut lines = vec![row("", ("without holdoff".to_owned(), "with holdoff".to_owned()))];
    lines.push("Counted by the peers:".to_owned());
    lines.push(row("requests at the peer", sides(|side| side.books.total.requests())));
    lines.push(row("good answers (200)", sides(|side| side.books.total.good)));
    lines.push(row("refused (429)", sides(|side| side.books.total.limited)));
    lines.push(row("first 429 until good again", (recovered(without), recovered(with))));
    lines.push(row("longest silence granted", (silence(without), silence(with))));
    lines.push("Counted by the nodes:".to_owned());
    lines.push(row("requests made", sides(|side| side.tally.asked)));
    lines.push(row("good answers", sides(|side| side.tally.good)));
    if without.tally.failed.saturating_add(with.tally.failed) > 0 {
        lines.push(row("not answered", sides(|side| side.tally.failed)));
    }
    if without.tally.other.saturating_add(with.tally.other) > 0 {
        lines.push(row("answered with another status", sides(|side| side.tally.other)));
    }
    lines.push("Counted by holdoff:".to_owned());
    lines.push(row("requests it answered itself", own(watch.short_circuited.to_string())));
    lines.push(row("cooldowns / probes", own(format!("{} / {}", watch.cooldowns, watch.probes))));
    lines.push(String::new());
    lines.extend(wrap(&figures.conclusion(), WIDTH));
    lines
}

fn row(name: &str, (without, with): (String, String)) -> String {
    format!("  {name:<30}{without:>16}{with:>16}").trim_end().to_owned()
}

/// Breaks a text at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let length = line.chars().count().saturating_add(word.chars().count()).saturating_add(1);
        if !line.is_empty() && length > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::figures;
    use super::*;

    #[test]
    fn the_storm_is_a_wall_and_holdoff_leaves_silence() {
        let expected = "\
WITHOUT holdoff: 32 requests at the peer, 6 good, 26 refused
the peer |█▒▒▒▒▒▒▒
     saw |█▒▒▒▒▒▒▒
         |██▒▒▒▒▒▒
         |██▒▒▒▒▒▒
          0 s

WITH holdoff: 12 requests at the peer, 11 good, 1 refused
the peer |█     █
     saw |█▒    █
         |██    █
         |██···██·
 holdoff |-====?--
          0 s

█ 200 good   ▒ 429 refused   · left alone   (a block: 1 or fewer in 0.5 s)
- clear: requests pass  = cooling: holdoff answers  ? probe: one tests the peer";
        assert_eq!(panels(&figures(), false).join("\n"), expected);
    }

    #[test]
    fn the_table_puts_the_figures_side_by_side() {
        let expected = "
                                 without holdoff    with holdoff
Counted by the peers:
  requests at the peer                        32              12
  good answers (200)                           6              11
  refused (429)                               26               1
  first 429 until good again      never in 4 s           2.1 s
  longest silence granted                  0.1 s           2.1 s
Counted by the nodes:
  requests made                               32              32
  good answers                                 6              11
Counted by holdoff:
  requests it answered itself                  -              20
  cooldowns / probes                           -           1 / 1

With holdoff the peer saw 62 % fewer requests and gave 11 good answers instead
of 6. Without it the nodes kept the limit alive to the end; with it the first
good answer came 2.1 s after the first 429.";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = table(&figures());
        assert_eq!(squeeze(&lines.join("\n")), squeeze(expected));
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
    }

    #[test]
    fn what_has_not_happened_yet_is_blank_and_the_height_stays() {
        let mut figures = figures();
        let full = panels(&figures, false).len();
        assert_eq!(full, usize::from(HEIGHT));
        figures.elapsed = Duration::from_millis(600);
        figures.with.books.slices.truncate(2);
        let lines = panels(&figures, false);
        assert_eq!(lines.len(), full);
        assert_eq!(lines[11], "         |██");
        assert_eq!(lines[12], " holdoff |-=");
    }

    #[test]
    fn a_small_part_of_a_slice_is_still_seen() {
        let column = |good, limited| (1..=ROWS).map(|row| cell(Slice { good, limited }, row, 5)).collect::<Vec<_>>();
        use Cell::{Good, Limited, Nothing, Silence};
        assert_eq!(column(0, 0), [Silence, Nothing, Nothing, Nothing]);
        assert_eq!(column(19, 1), [Good, Good, Good, Limited]);
        assert_eq!(column(1, 19), [Good, Limited, Limited, Limited]);
        assert_eq!(column(1, 1), [Good, Limited, Nothing, Nothing]);
        assert_eq!(column(900, 900), [Good, Good, Good, Limited]);
        assert_eq!(column(1, 0), [Good, Nothing, Nothing, Nothing]);
        assert_eq!(column(0, 1), [Limited, Nothing, Nothing, Nothing]);
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let figures = figures();
        let painted = panels(&figures, true).join("\n");
        assert!(painted.contains("\u{1b}[31m▒\u{1b}[0m"));
        let mut plain = painted;
        for code in ["0", "2", "31", "32"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_eq!(plain, panels(&figures, false).join("\n"));
    }

    #[test]
    fn the_longest_demo_fits_eighty_columns() {
        let mut figures = figures();
        figures.plan.length = Duration::from_secs(25);
        figures.elapsed = Duration::from_secs(25);
        let mut lines = story(&Plan { limit: 10_000, nodes: 50, ..figures.plan });
        lines.extend(panels(&figures, false));
        let wide: Vec<_> = lines.iter().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:#?}");
    }
}
