package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

// stats prints counters, for flows a line for each worker where conntrack(8) has one
// for each processor.
func (l *conntrackLine) stats(cmd *cobra.Command, client *api.Client) error {
	st, err := client.FlowStats(cmd.Context())
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if l.table == tableExpect {
		fmt.Fprintf(out, "cpu=%-4d\texpect_new=%d expect_create=%d expect_delete=%d \n", 0, st.Expect.New, st.Expect.Create, st.Expect.Delete)
		return nil
	}
	for i, w := range st.Workers {
		fmt.Fprintf(out, "cpu=%-4d\tfound=%d invalid=%d insert=%d insert_failed=%d drop=%d early_drop=%d error=%d search_restart=%d clash_resolve=%d chaintoolong=%d \n",
			i, w.Found, w.Invalid, w.Insert, w.InsertFailed, w.Drop, w.EarlyDrop, w.Error, 0, w.ClashResolve, w.ChainTooLong)
	}
	return nil
}
