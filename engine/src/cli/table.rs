//! Tables with columns as wide as they need to be.

/// What a column takes with the blanks behind it.
const LEAST: usize = 10;

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|heading| (*heading).to_owned()).collect()])
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    /// The table as text: three blanks between columns, which take no fewer than ten, as Docker's.
    pub(crate) fn render(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            for (column, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if column + 1 < row.len() {
                    let blanks = (widths[column] + 3).max(LEAST) - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', blanks));
                }
            }
            text.push('\n');
        }
        text.pop();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "ID"]);
        table.row(vec!["a-long-name".to_owned(), "1".to_owned()]);
        assert_eq!(table.render(), "NAME          ID\na-long-name   1");
        let mut narrow = Table::new(&["NAME", "ID"]);
        narrow.row(vec!["web".to_owned(), "1".to_owned()]);
        assert_eq!(narrow.render(), "NAME      ID\nweb       1");
    }
}
