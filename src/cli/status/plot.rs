//! Plots made of block characters.

/// A column in eighths of a row.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const EIGHTHS_ACROSS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// `value` in eighths of a cell, of `cells` that reach up to `top`; what is not nothing can be seen.
fn eighths(value: f64, top: f64, cells: usize) -> usize {
    if value <= 0.0 || top <= 0.0 || cells == 0 {
        return 0;
    }
    let all = cells * 8;
    ((value / top * all as f64).round() as usize).clamp(1, all)
}

/// The rows of a bar chart, the highest first. Where nothing is known there is nothing.
pub(super) fn bars(values: &[Option<f64>], top: f64, rows: usize) -> Vec<String> {
    let row = |row: usize| {
        let below = (rows - 1 - row) * 8;
        let cell = |value: &Option<f64>| {
            let height = value.map_or(0, |value| eighths(value, top, rows));
            EIGHTHS[height.saturating_sub(below).min(8)]
        };
        values.iter().map(cell).collect()
    };
    (0..rows).map(row).collect()
}

/// One row of bars.
pub(super) fn spark(values: &[Option<f64>], top: f64) -> String {
    bars(values, top, 1).concat()
}

/// The row, from the top, in which `value` lies.
pub(super) fn row_of(value: f64, top: f64, rows: usize) -> Option<usize> {
    let height = value / top * rows as f64;
    (value >= 0.0 && value <= top).then(|| rows - (height.ceil() as usize).clamp(1, rows))
}

/// A bar across that is full at `top`, with a mark at each of `marks`.
pub(super) fn gauge(value: Option<f64>, marks: &[f64], top: f64, width: usize) -> String {
    let length = value.map_or(0, |value| eighths(value, top, width));
    let cell = |column: usize| match length.saturating_sub(column * 8).min(8) {
        0 => '·',
        part => EIGHTHS_ACROSS[part],
    };
    let mut cells: Vec<char> = (0..width).map(cell).collect();
    for mark in marks.iter().filter(|mark| **mark > 0.0 && **mark <= top) {
        let column = (mark / top * width as f64).ceil() as usize;
        if let Some(cell) = cells.get_mut(column.max(1) - 1) {
            *cell = '│';
        }
    }
    cells.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_the_ground_and_gaps_are_empty() {
        let values = [
            Some(0.0),
            Some(0.01),
            None,
            Some(0.5),
            Some(0.75),
            Some(2.0),
        ];
        assert_eq!(bars(&values, 1.0, 2), ["    ▄█", " ▁ ███"]);
        assert_eq!(spark(&values, 1.0), " ▁ ▄▆█");
        assert_eq!(spark(&[Some(1.0)], 0.0), " ");
    }

    #[test]
    fn a_threshold_lies_in_the_row_where_a_bar_passes_it() {
        assert_eq!(
            [0.1, 0.7, 0.98, 1.0].map(|value| row_of(value, 1.0, 4)),
            [Some(3), Some(1), Some(0), Some(0)]
        );
        assert_eq!(row_of(1.2, 1.0, 4), None);
    }

    #[test]
    fn a_gauge_has_its_marks_whatever_it_shows() {
        assert_eq!(gauge(Some(0.5), &[0.8], 1.0, 10), "█████··│··");
        assert_eq!(gauge(Some(0.95), &[0.8], 1.0, 10), "███████│█▌");
        assert_eq!(gauge(None, &[0.8, 7.0], 1.0, 10), "·······│··");
        assert_eq!(gauge(Some(0.5), &[], 1.0, 0), "");
    }
}
