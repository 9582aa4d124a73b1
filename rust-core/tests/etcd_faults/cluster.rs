//! Many tasks at work while servers die.
