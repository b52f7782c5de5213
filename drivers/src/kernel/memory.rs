//! A fake.
/// f
#[derive(Debug)] pub struct Memory;
