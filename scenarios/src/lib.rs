//! The composition root: scenarios, the policy registry and the aril command.
