"""What methods are made of: pure functions of tensors that know no module."""
