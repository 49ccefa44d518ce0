package main

import (
	"fmt"
	"slices"
	"strings"

	"countersign/enforcer/mask"
	"countersign/rules"
)

// maskProblems names the detectors that a policy switches off and that do not
// exist: a typo there would leave the detector on, and its author wondering.
// The policy package cannot know them.
func maskProblems(p *rules.Policy) error {
	known := mask.Detectors()
	for _, d := range p.Masks().Disable {
		if !slices.Contains(known, d) {
			return fmt.Errorf("masks: there is no detector %q; there are %s", d, strings.Join(known, ", "))
		}
	}
	return nil
}
