//! Which projections a launch serves.

use crate::lora::layout::Place;
use crate::{Element, Error};

/// The projections that read the same x in one launch: q, k and v; gate and up; or a single one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    element: Element,
    places: Vec<Place>,
}

/// The most projections that one launch serves.
pub const PROJECTIONS_MAX: usize = 4;

impl Site {
    /// A site of one to four projections with the same input width.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are none or too many, or their input widths differ.
    pub fn new(element: Element, places: &[Place]) -> Result<Self, Error> {
        if places.is_empty() || places.len() > PROJECTIONS_MAX {
            let why = format!("{} projections share a launch; 1 to {PROJECTIONS_MAX} can", places.len());
            return Err(Error::shape("site", why));
        }
        if let Some(other) = places.iter().find(|place| place.shape.inputs != places[0].shape.inputs) {
            return Err(Error::shape(
                "site",
                format!(
                    "projections that share x must have one input width, not {} and {}",
                    places[0].shape.inputs, other.shape.inputs
                ),
            ));
        }
        for place in places {
            place.shape.check()?;
        }
        Ok(Site { element, places: places.to_vec() })
    }

    /// Number format of x, y and the weights.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Shapes and places of the projections.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Width of x.
    pub fn inputs(&self) -> u32 {
        self.places[0].shape.inputs
    }

    /// Whether a plan for one serves the other: the same shapes, wherever they lie.
    pub fn has_shapes_of(&self, other: &Site) -> bool {
        let shapes = |site: &Site| site.places.iter().map(|place| place.shape).collect::<Vec<_>>();
        self.element == other.element && shapes(self) == shapes(other)
    }
}
