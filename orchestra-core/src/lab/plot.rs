//! Pictures of results, as SVG.

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    drawing::IntoDrawingArea as _,
    element::PathElement,
    series::LineSeries,
    style::{BLACK, Color as _, Palette as _, Palette99, TRANSPARENT, WHITE},
};
use plotters_svg::SVGBackend;

/// Width and height, in pixels.
const SIZE: (u32, u32) = (900, 560);

/// How much of each axis the names of the lines are taken to cover.
const CORNER: f64 = 0.4;

/// What a picture couldn't be drawn for.
#[derive(Debug, thiserror::Error)]
#[error("the picture {title:?} can't be drawn: {problem}")]
pub struct PlotError {
    title: Box<str>,
    problem: Box<str>,
}

/// One line of a picture, with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is called.
    pub name: Box<str>,
    /// Its points, in the order to join them.
    pub points: Vec<(f64, f64)>,
}

/// How far apart numbers are on the axis that runs to the right.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum XAxis {
    /// By their difference.
    #[default]
    Linear,
    /// By their ratio.
    Logarithmic {
        /// What is less, as 0 is, is drawn here; more than 0.
        least: f64,
    },
}

impl XAxis {
    fn place(self, x: f64) -> f64 {
        match self {
            Self::Linear => x,
            Self::Logarithmic { least } => x.max(least).log10(),
        }
    }

    /// The number at a place, as it is written at the axis.
    fn label(self, place: f64) -> String {
        match self {
            Self::Linear => format!("{}", (place * 1e6).round() / 1e6),
            // Three digits, but no trail of zeros.
            Self::Logarithmic { .. } => {
                let (number, digits) = (10_f64.powf(place), 10_f64.powf(2.0 - place.floor()));
                format!("{}", (number * digits).round() / digits)
            }
        }
    }
}

/// A picture of lines over two axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// What it shows.
    pub title: Box<str>,
    /// What runs to the right, with its unit.
    pub x: Box<str>,
    /// What runs up, with its unit.
    pub y: Box<str>,
    /// How far apart numbers to the right are.
    pub x_axis: XAxis,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Plot {
    /// Draws it; the axes span all points that are numbers.
    ///
    /// # Errors
    ///
    /// If there is no such point.
    pub fn svg(&self) -> Result<String, PlotError> {
        let failed = |problem: String| PlotError { title: self.title.clone(), problem: problem.into() };
        let points = self.lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let bounds = |of: fn(&(f64, f64)) -> f64| {
            let numbers = points.clone().map(of);
            numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)))
        };
        let ((x_low, x_high), (y_low, y_high)) = (bounds(|(x, _)| *x), bounds(|(_, y)| *y));
        let (x_low, x_high) =
            if x_low > x_high { (x_low, x_high) } else { (self.x_axis.place(x_low), self.x_axis.place(x_high)) };
        if x_low > x_high {
            return Err(failed("it has no points".into()));
        }
        let mut text = String::new();
        self.draw(&mut text, (x_low, x_high), (y_low, y_high)).map_err(failed)?;
        Ok(text)
    }

    fn draw(&self, text: &mut String, (x_low, x_high): (f64, f64), (y_low, y_high): (f64, f64)) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        // A line along an axis would leave it without a length.
        let room = |low: f64, high: f64| if high > low { low..high } else { low - 1.0..high + 1.0 };
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(room(x_low, x_high), room(y_low, y_high))
            .map_err(|error| failed(&error))?;
        let label = |place: &f64| self.x_axis.label(*place);
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(&*self.x).y_desc(&*self.y).x_label_formatter(&label);
        mesh.draw().map_err(|error| failed(&error))?;
        for (at, Line { name, points }) in self.lines.iter().enumerate() {
            let style = Palette99::pick(at).stroke_width(2);
            let finite = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
            let series = LineSeries::new(finite.map(|(x, y)| (self.x_axis.place(*x), *y)), style);
            let legend = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style);
            chart.draw_series(series).map_err(|error| failed(&error))?.label(&**name).legend(legend);
        }
        chart
            .configure_series_labels()
            .position(self.emptiest_corner((x_low, x_high), (y_low, y_high)))
            .background_style(WHITE.mix(0.8))
            .border_style(if self.lines.len() > 1 { BLACK.to_rgba() } else { TRANSPARENT })
            .draw()
            .map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))
    }

    /// The corner that the fewest points are in, for the names of the lines.
    fn emptiest_corner(&self, (x_low, x_high): (f64, f64), (y_low, y_high): (f64, f64)) -> SeriesLabelPosition {
        let part = |at: f64, low: f64, high: f64| if high > low { (at - low) / (high - low) } else { 0.5 };
        let points = self.lines.iter().flat_map(|line| &line.points);
        let places: Vec<(f64, f64)> =
            points.map(|(x, y)| (part(self.x_axis.place(*x), x_low, x_high), part(*y, y_low, y_high))).collect();
        let crowd = |is_left: bool, is_upper: bool| {
            let is_near = |at: f64, is_low: bool| if is_low { at < CORNER } else { at > 1.0 - CORNER };
            places.iter().filter(|(x, y)| is_near(*x, is_left) && is_near(*y, !is_upper)).count()
        };
        let corners = [
            (crowd(true, true), SeriesLabelPosition::UpperLeft),
            (crowd(false, true), SeriesLabelPosition::UpperRight),
            (crowd(true, false), SeriesLabelPosition::LowerLeft),
            (crowd(false, false), SeriesLabelPosition::LowerRight),
        ];
        corners.into_iter().min_by_key(|(count, _)| *count).map_or(SeriesLabelPosition::UpperLeft, |(_, corner)| corner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Plot, XAxis};

    fn plot(points: &[(f64, f64)]) -> Plot {
        let line = Line { name: "FGD".into(), points: points.to_vec() };
        Plot {
            title: "Allocation".into(),
            x: "arrived (%)".into(),
            y: "allocated (%)".into(),
            x_axis: XAxis::Linear,
            lines: vec![line],
        }
    }

    #[test]
    fn a_picture_names_what_it_shows() {
        let svg = plot(&[(0.0, 0.0), (50.0, 50.0), (f64::NAN, 1.0), (130.0, 95.3)]).svg().expect("it has points");
        for text in ["<svg", "Allocation", "arrived (%)", "allocated (%)", "FGD", "<polyline", "</svg>"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert_eq!(svg, plot(&[(0.0, 0.0), (50.0, 50.0), (130.0, 95.3)]).svg().expect("it has points"));
    }

    #[test]
    fn the_names_of_lines_are_where_the_fewest_points_are() {
        let corner = |points: &[(f64, f64)]| format!("{:?}", plot(points).emptiest_corner((0.0, 10.0), (0.0, 10.0)));
        assert!(corner(&[(9.0, 9.0)]).contains("UpperLeft"));
        assert!(corner(&[(1.0, 9.0)]).contains("UpperRight"));
        assert!(corner(&[(1.0, 9.0), (9.0, 9.0)]).contains("LowerLeft"));
        assert!(corner(&[(1.0, 9.0), (9.0, 9.0), (1.0, 1.0)]).contains("LowerRight"));
    }

    #[test]
    fn one_point_is_drawn_and_none_is_refused() {
        plot(&[(1.0, 1.0)]).svg().expect("it has a point");
        let refused = plot(&[]).svg().expect_err("it has none").to_string();
        assert_eq!(refused, "the picture \"Allocation\" can't be drawn: it has no points");
    }

    #[test]
    fn a_logarithmic_axis_has_room_for_nothing_at_all() {
        let x_axis = XAxis::Logarithmic { least: 0.001 };
        let svg = Plot { x_axis, ..plot(&[(0.0, 0.0), (1.0, 50.0), (1_000.0, 100.0)]) }.svg().expect("it has points");
        assert!(svg.contains("<polyline"));
        assert_eq!([-3.0, 0.0, 1.5, 3.0].map(|place| x_axis.label(place)), ["0.001", "1", "31.6", "1000"]);
        assert_eq!(XAxis::Linear.label(0.1 + 0.2), "0.3");
    }
}
