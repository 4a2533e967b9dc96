//! Facts become tables, metrics, figures and pages.
