//! What a range of a file or a request holds: exact to the byte, costing what was written and not what it spans.
