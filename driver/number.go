// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"fmt"
	"strconv"
)

// Numbers of a config block arrive from Nomad as an integer, a float or, where
// a float64 cannot hold the decimal that was written (0.1), as text. Fields
// for them are therefore of type any, and nil if not given.

// whole is v as an integer between least and most.
func whole(key string, v any, otherwise, least, most int64) (int64, error) {
	if v == nil {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s must be a whole number from %d to %d, got %v", key, least, most, v)
	}
	return n, nil
}

// decimal is v as a number between least and most.
func decimal(key string, v any, otherwise, least, most float64) (float64, error) {
	if v == nil {
		return otherwise, nil
	}
	f, err := strconv.ParseFloat(fmt.Sprint(v), 64)
	if err != nil || !(f >= least && f <= most) {
		return 0, fmt.Errorf("%s must be a number from %v to %v, got %v", key, least, most, v)
	}
	return f, nil
}
