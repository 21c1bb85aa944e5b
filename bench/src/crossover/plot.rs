//! The crossover as a picture, an SVG of two panels. Pure.

use std::fmt::Write as _;

use crate::spread::Spread;

use super::figures::{Crossover, Row};
use super::table::size;

/// Pixels of the whole picture.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 800.0;
/// Where panels begin and end, and how high they are.
const LEFT: f64 = 80.0;
const RIGHT: f64 = WIDTH - 30.0;
const UPPER: [f64; 2] = [62.0, 440.0];
const LOWER: [f64; 2] = [500.0, 735.0];
/// Error bars beside each other by this much, so that none hides another.
const ASIDE: f64 = 4.0;

/// A line with marks and error bars; colours that the colour-blind can tell apart (Okabe and Ito).
struct Curve<'a> {
    name: &'a str,
    colour: &'a str,
    /// `circle`, `square` or `triangle`.
    mark: &'a str,
    points: Vec<(f64, Spread)>,
}

/// From figures to pixels, logarithmic both ways: where curves cross, figures are the same.
struct Panel {
    x: [f64; 2],
    y: [f64; 2],
    /// Pixels of top and bottom.
    at: [f64; 2],
}

impl Panel {
    fn x(&self, bytes: f64) -> f64 {
        let part = (bytes / self.x[0]).ln() / (self.x[1] / self.x[0]).ln();
        LEFT + part * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        let [least, most] = self.y;
        let part = (value.clamp(least, most) / least).ln() / (most / least).ln();
        self.at[1] - part * (self.at[1] - self.at[0])
    }

    /// Frame, grid, numbers and the names of the axes.
    fn axes(&self, out: &mut String, sizes: &[u64], name: &str) {
        let [top, bottom] = self.at;
        for bytes in sizes {
            let x = self.x(*bytes as f64);
            let _ = writeln!(out, r##"<path class="grid" d="M{x:.1} {top:.1}V{bottom:.1}"/>"##);
            text(out, (x, bottom + 18.0), "middle", "", &size(*bytes as f64));
        }
        for (value, label) in self.ticks() {
            let y = self.y(value);
            let _ = writeln!(out, r##"<path class="grid" d="M{LEFT:.1} {y:.1}H{RIGHT:.1}"/>"##);
            text(out, (LEFT - 8.0, y + 4.5), "end", "", &label);
        }
        let (width, height) = (RIGHT - LEFT, bottom - top);
        let _ = writeln!(
            out,
            r##"<rect x="{LEFT}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#444"/>"##
        );
        let (x, y) = (22.0, (top + bottom) / 2.0);
        text(out, (x, y), "middle", &format!(r#" transform="rotate(-90 {x} {y})""#), name);
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let [least, most] = self.y;
        let powers = (-2..7).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
        powers
            .filter(|v| (least..=most).contains(v))
            .map(|v| (v, format!("{}", (v * 100.0).round() / 100.0)))
            .collect()
    }

    fn draw(&self, out: &mut String, curve: &Curve<'_>, aside: f64) {
        let points: Vec<(f64, &Spread)> =
            curve.points.iter().map(|(bytes, spread)| (self.x(*bytes), spread)).collect();
        let _ = write!(
            out,
            r##"<g stroke="{0}" fill="{0}"><path fill="none" stroke-width="2" d=""##,
            curve.colour
        );
        for (i, (x, spread)) in points.iter().enumerate() {
            let _ = write!(out, "{}{x:.1} {:.1}", if i == 0 { "M" } else { "L" }, self.y(spread.median));
        }
        out.push_str("\"/>\n");
        for (x, spread) in points {
            let x = x + aside;
            let (low, high) = (self.y(spread.min), self.y(spread.max));
            let (left, right) = (x - 4.0, x + 4.0);
            let _ = writeln!(
                out,
                r##"<path d="M{left:.1} {low:.1}H{right:.1}M{left:.1} {high:.1}H{right:.1}M{x:.1} {low:.1}V{high:.1}"/>"##
            );
            mark(out, curve.mark, (x, self.y(spread.median)));
        }
        out.push_str("</g>\n");
    }

    /// Names of curves on the left, on white.
    fn legend(&self, out: &mut String, curves: &[Curve<'_>], above: bool) {
        let longest = curves.iter().map(|curve| curve.name.len()).max().unwrap_or(0);
        let (width, height) = (60.0 + 7.2 * longest as f64, 24.0 * curves.len() as f64 + 8.0);
        let x = LEFT + 14.0;
        let y = if above { self.at[0] + 12.0 } else { self.at[1] - height - 12.0 };
        let _ = writeln!(
            out,
            r##"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="#fff" stroke="#bbb"/>"##
        );
        for (i, Curve { name, colour, mark: shape, .. }) in curves.iter().enumerate() {
            let (x, y) = (x + 10.0, y + 16.0 + 24.0 * i as f64);
            let _ = writeln!(
                out,
                r##"<g stroke="{colour}" fill="{colour}"><path stroke-width="2" d="M{x} {y}h32"/>"##
            );
            mark(out, shape, (x + 16.0, y));
            out.push_str("</g>\n");
            text(out, (x + 42.0, y + 4.5), "start", "", name);
        }
    }
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, more: &str, words: &str) {
    let _ = writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}"{more}>{words}</text>"#);
}

fn mark(out: &mut String, shape: &str, (x, y): (f64, f64)) {
    let path = match shape {
        "circle" => format!("M{:.1} {y:.1}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z", x - 4.5),
        "square" => format!("M{:.1} {:.1}h8v8h-8z", x - 4.0, y - 4.0),
        _ => format!("M{x:.1} {:.1}l5 9h-10z", y - 5.5),
    };
    let _ = writeln!(out, r#"<path d="{path}"/>"#);
}

/// The picture as SVG.
pub fn svg(crossover: &Crossover) -> String {
    let mut sizes: Vec<u64> = crossover.rows.iter().map(|row| row.bytes).collect();
    sizes.dedup();
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="14" font-weight="400">
<style>.grid {{ stroke: #ddd; }} text {{ fill: #111; stroke: none; }}</style>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
"##
    );
    let curve = |name, way, colour, mark, pick: fn(&Row) -> Option<Spread>| {
        let of_way = crossover.rows.iter().filter(|row| row.way == way);
        Curve {
            name,
            colour,
            mark,
            points: of_way.filter_map(|r| Some((r.bytes as f64, pick(r)?))).collect(),
        }
    };
    let cpu = |row: &Row| row.cpu_us_per_request;
    let upper = [
        curve("Baton, the connection moves for each request", "baton-move", "#0072b2", "circle", cpu),
        curve("Baton, the connection stays (same requests)", "baton-stay", "#009e73", "square", cpu),
        curve("HAProxy, kept connections to both servers", "haproxy", "#d55e00", "triangle", cpu),
    ];
    let lower = [
        curve("moving / staying", "baton-move", "#009e73", "square", |row| row.cpu_ratio_to_stay),
        curve("moving / HAProxy", "baton-move", "#d55e00", "triangle", |row| row.cpu_ratio_to_haproxy),
    ];
    text(
        &mut out,
        (WIDTH / 2.0, 30.0),
        "middle",
        r#" font-size="18""#,
        "Requests that alternate between two servers on kept connections",
    );
    text(&mut out, (WIDTH / 2.0, 50.0), "middle", "", &subtitle(crossover));
    panel(&mut out, crossover, &sizes, UPPER, &upper, "CPU time per request (µs, whole machine)");
    panel(&mut out, crossover, &sizes, LOWER, &lower, "ratio of CPU time");
    text(&mut out, ((LEFT + RIGHT) / 2.0, HEIGHT - 24.0), "middle", "", "size of the response");
    out + "</svg>\n"
}

fn subtitle(crossover: &Crossover) -> String {
    let meta = &crossover.meta;
    let cost = crossover.cost_of_a_move.as_ref().and_then(|cost| cost.cpu_us);
    let cost = cost.map(|c| format!("; a move costs {:.0} µs ({:.0} to {:.0})", c.median, c.min, c.max));
    format!("medians ({} rounds), bars from least to most{}", meta.rounds, cost.unwrap_or_default())
}

fn panel(
    out: &mut String,
    crossover: &Crossover,
    sizes: &[u64],
    at: [f64; 2],
    curves: &[Curve<'_>],
    name: &str,
) {
    let spreads = || curves.iter().flat_map(|curve| curve.points.iter().map(|(_, spread)| spread));
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return };
    let upper = at == UPPER;
    // The ratio 1 is always seen.
    let most = spreads().map(|spread| spread.max).fold(1.0, f64::max);
    let least = spreads().map(|spread| spread.min).fold(if upper { most } else { 1.0 }, f64::min).max(0.01);
    // Room for the legend, and for what is noted below.
    let panel = Panel {
        x: [*first as f64 / 1.3, *last as f64 * 1.3],
        y: [least / if upper { 1.4 } else { 1.2 }, most * if upper { 2.0 } else { 1.3 }],
        at,
    };
    panel.axes(out, sizes, name);
    if let Some(from) = crossover.cheaper_than_haproxy.as_ref().and_then(|c| c.from_bytes) {
        let (left, x, right) = (panel.x(from.min), panel.x(from.median), panel.x(from.max));
        let [top, bottom] = at;
        let (width, height) = ((right - left).max(1.0), bottom - top);
        let _ = writeln!(
            out,
            r##"<rect x="{left:.1}" y="{top}" width="{width:.1}" height="{height}" fill="#0072b2" opacity="0.1"/>
<path d="M{x:.1} {top}V{bottom}" stroke="#0072b2" stroke-dasharray="5 4"/>"##
        );
        if upper {
            let note = format!("cheaper than HAProxy from {}", size(from.median));
            text(out, (x + 8.0, bottom - 12.0), "start", "", &note);
        }
    }
    if !upper {
        let _ = writeln!(out, r##"<path d="M{LEFT} {0:.1}H{RIGHT}" stroke="#444"/>"##, panel.y(1.0));
    }
    let middle = (curves.len() as f64 - 1.0) / 2.0;
    for (i, curve) in curves.iter().enumerate() {
        panel.draw(out, curve, (i as f64 - middle) * ASIDE);
    }
    panel.legend(out, curves, upper);
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::sample;
    use super::{Panel, UPPER, svg};

    /// Each element that begins also ends, in order.
    fn is_well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let Some((inside, _)) = tag.split_once('>') else { return false };
            let name = inside.trim_start_matches('/').split([' ', '/', '\n']).next();
            if inside.starts_with('/') {
                if open.pop() != name {
                    return false;
                }
            } else if !inside.ends_with('/') && !inside.starts_with(['?', '!']) {
                open.extend(name);
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_picture_has_every_curve_and_is_drawn() {
        let svg = svg(&sample());
        for words in
            ["the connection moves", "the connection stays", "moving / HAProxy", "cheaper than HAProxy"]
        {
            assert!(svg.contains(words), "{words} in {svg}");
        }
        assert!(is_well_formed("<a><b c=\"d\"/></a>") && !is_well_formed("<a><b></a></b>"));
        assert!(is_well_formed(&svg), "{svg}");
        assert!(svg.matches("#0072b2").count() > 3, "the curve of what moves: {svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn figures_are_between_the_ends_of_their_axes() {
        let panel = Panel { x: [1e3, 1e6], y: [1.0, 100.0], at: UPPER };
        assert_eq!((panel.y(1.0), panel.y(100.0), panel.y(1000.0)), (UPPER[1], UPPER[0], UPPER[0]));
        assert_eq!(panel.y(10.0), (UPPER[0] + UPPER[1]) / 2.0);
        let ticks: Vec<f64> = panel.ticks().into_iter().map(|(value, _)| value).collect();
        assert_eq!(ticks, [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
    }
}
